#include "activations.h"

#include <algorithm>

namespace tk {

namespace {

// The smallest tile for which a kernel exists.
int64_t tile_size(int64_t rows) {
    return *std::find_if(std::begin(kTileSizes), std::end(kTileSizes), [&](int64_t size) { return size >= rows; });
}

}  // namespace

Precision parse_precision(const std::string& name) {
    if (name == "int8") return Precision::int8;
    if (name == "wide") return Precision::wide;
    throw std::invalid_argument("precision '" + name + "' is neither int8 nor wide");
}

void Activations::prepare(int64_t tokens, const std::vector<const Matrix*>& matrices, Precision precision) {
    tokens_ = tokens;
    precision_ = precision;
    size_ = matrices.front()->cols;
    padded_ = 0;
    starts_.resize(matrices.size());
    size_t num_starts = 0;
    for (const Matrix* matrix : matrices) {
        if (matrix->cols != size_) throw std::invalid_argument("matrices with the same input differ in columns");
        padded_ = std::max(padded_, round_up(matrix->padded_cols, 16));
        const int offset = info(matrix->format).offset;
        const auto end = starts_.begin() + static_cast<int64_t>(num_starts);
        const auto same = std::find_if(starts_.begin(), end, [&](const Starts& s) { return s.group == matrix->group && s.offset == offset; });
        if (same == end) starts_[num_starts++].num_groups = 0;
        same->group = matrix->group;
        same->offset = offset;
        same->num_groups = std::max({same->num_groups, matrix->num_groups, int64_t{1}});
    }
    starts_.resize(num_starts);
    const int64_t rows = tokens * (precision == Precision::wide ? 2 : 1);
    const bool grouped = std::any_of(matrices.begin(), matrices.end(), [](const Matrix* matrix) { return matrix->group != 0; });
    const int64_t most = grouped ? kGroupedTokenTile : kTokenTile;
    const int64_t usual = tile_size(ceil_div(rows, ceil_div(rows, most)));  // equal tiles
    tiles_.clear();
    for (int64_t row = 0; row < rows; row += usual) tiles_.push_back({row, std::min(usual, tile_size(std::min(usual, rows - row)))});
    padded_rows_ = tiles_.back().row + tiles_.back().size;
    codes_.resize(padded_rows_ * (padded_ / kStep));
    scales_.resize(padded_rows_);
    for (auto& starts : starts_) starts.of.resize(padded_rows_ * starts.num_groups);
    for (int64_t row = rows; row < padded_rows_; ++row) {  // rows that only fill the last tile
        const Tile& tile = tiles_.back();
        scales_[row] = 0;
        for (auto& starts : starts_)
            for (int64_t g = 0; g < starts.num_groups; ++g) starts.of[tile.row * starts.num_groups + g * tile.size + row - tile.row] = 0;
        for (int64_t step = 0; step < padded_ / kStep; ++step) codes_[tile.row * (padded_ / kStep) + step * tile.size + row - tile.row] = 0;
    }
}

void Activations::set_starts(const Tile& tile, int64_t at, const int32_t* sums16) {
    for (auto& starts : starts_) {
        const int64_t pieces = starts.group ? starts.group / 16 : padded_ / 16;
        int32_t* out = starts.of.data() + tile.row * starts.num_groups + at;
        for (int64_t g = 0; g < starts.num_groups; ++g) {
            int32_t total = 0;
            for (int64_t i = g * pieces; i < std::min((g + 1) * pieces, padded_ / 16); ++i) total += sums16[i];
            out[g * tile.size] = -starts.offset * total;
        }
    }
}

void Activations::set(int64_t token, const float* x) {
    thread_local std::vector<int32_t> sums16;
    const int64_t pieces = padded_ / 16, steps = padded_ / kStep;
    sums16.resize(2 * pieces);
    const auto place = [&](int64_t row) -> const Tile& { return tiles_[row / tiles_.front().size]; };
    if (!is_wide()) {
        const Tile& tile = place(token);
        const int64_t at = token - tile.row;
        scales_[token] = 1.0f / kernels().quantize(x, size_, padded_, codes_.data() + tile.row * steps + at, tile.size, sums16.data());
        set_starts(tile, at, sums16.data());
        return;
    }
    const int64_t rows[2] = {2 * token, 2 * token + 1};
    uint32_t* codes[2];
    for (int i = 0; i < 2; ++i) codes[i] = codes_.data() + place(rows[i]).row * steps + rows[i] - place(rows[i]).row;
    const Tile& tile = place(rows[0]);  // an even number of rows gives tiles of even size: both lie in the same
    const float scale = kernels().quantize_wide(x, size_, padded_, codes[0], codes[1], tile.size, sums16.data(), sums16.data() + pieces);
    scales_[rows[0]] = 256 * scale;
    scales_[rows[1]] = scale;
    for (int i = 0; i < 2; ++i) set_starts(tile, rows[i] - tile.row, sums16.data() + i * pieces);
}

Panel Activations::panel(int64_t tile, const Matrix& matrix) const {
    const Tile& at = tiles_[tile];
    const int offset = info(matrix.format).offset;
    const auto starts = std::find_if(starts_.begin(), starts_.end(), [&](const Starts& s) { return s.group == matrix.group && s.offset == offset; });
    return {codes_.data() + at.row * (padded_ / kStep), starts->of.data() + at.row * starts->num_groups, scales_.data() + at.row, at.size};
}

}  // namespace tk
