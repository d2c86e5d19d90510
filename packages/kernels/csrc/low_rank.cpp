#include "low_rank.h"

#include <algorithm>
#include <cstring>

#include "isa.h"

namespace tk {

LowRank::LowRank(int64_t rows, int64_t cols, int64_t rank, const float* up_values, const float* down_values)
    : rows(rows), cols(cols), rank(rank), down(rank * cols), up(rank * rows) {
    std::memcpy(down.data(), down_values, rank * cols * sizeof(float));
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t r = 0; r < rank; ++r) up[r * rows + row] = up_values[row * rank + r];
}

LowRank::LowRank(int64_t rows, int64_t cols, int64_t rank, Buffer<float> down, Buffer<float> up)
    : rows(rows), cols(cols), rank(rank), down(std::move(down)), up(std::move(up)) {}

namespace {

// Small enough to share the work of one token, large enough to be worth sharing.
constexpr int64_t kRanksPerChunk = 8, kRowsPerChunk = 512;

// Calls body(index of the correction, token, first) for each piece of each correction and token.
template <typename Pieces, typename Body>
void over_pieces(Pool& pool, int64_t count, int64_t tokens, const Pieces& pieces, const Body& body) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) total += tokens * pieces(i);
    pool.run(total, [&](int64_t chunk, int) {
        int64_t i = 0;
        for (; chunk >= tokens * pieces(i); ++i) chunk -= tokens * pieces(i);
        body(i, chunk / pieces(i), chunk % pieces(i));
    });
}

}  // namespace

void correct(Pool& pool, const float* x, int64_t tokens, const std::vector<Correction>& corrections, Buffer<float>& between) {
    const KernelTable& table = kernels();
    const auto count = static_cast<int64_t>(corrections.size());
    std::vector<int64_t> begins(count + 1, 0);  // of each correction's part of a token in `between`
    for (int64_t i = 0; i < count; ++i) begins[i + 1] = begins[i] + corrections[i].pair->rank;
    const int64_t width = begins[count];
    between.resize(tokens * width);
    over_pieces(
        pool, count, tokens, [&](int64_t i) { return ceil_div(corrections[i].pair->rank, kRanksPerChunk); },
        [&](int64_t i, int64_t token, int64_t piece) {
            const LowRank& pair = *corrections[i].pair;
            float* out = between.data() + token * width + begins[i];
            const int64_t first = piece * kRanksPerChunk, last = std::min(first + kRanksPerChunk, pair.rank);
            table.project(x + token * pair.cols, pair.down.data() + first * pair.cols, last - first, pair.cols, out + first);
        });
    over_pieces(
        pool, count, tokens, [&](int64_t i) { return ceil_div(corrections[i].pair->rows, kRowsPerChunk); },
        [&](int64_t i, int64_t token, int64_t piece) {
            const LowRank& pair = *corrections[i].pair;
            const float* factors = between.data() + token * width + begins[i];
            const int64_t first = piece * kRowsPerChunk, size = std::min(kRowsPerChunk, pair.rows - first);
            float* out = corrections[i].out + token * corrections[i].stride + first;
            table.combine(factors, pair.up.data() + first, pair.rank, pair.rows, size, out);
        });
}

}  // namespace tk
