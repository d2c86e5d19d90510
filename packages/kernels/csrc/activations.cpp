#include "activations.h"

#include <algorithm>

namespace tk {

namespace {

// The smallest tile for which a kernel exists.
int64_t tile_size(int64_t rows) {
    return *std::find_if(std::begin(kTileSizes), std::end(kTileSizes), [&](int64_t size) { return size >= rows; });
}

}  // namespace

void Activations::prepare(int64_t tokens, const std::vector<const Matrix*>& matrices, Precision precision) {
    tokens_ = tokens;
    precision_ = precision;
    size_ = matrices.front()->cols;
    padded_ = 0;
    std::vector<std::pair<int64_t, int64_t>> groups;  // size (0: the row), number
    for (const Matrix* matrix : matrices) {
        if (matrix->cols != size_) throw std::invalid_argument("matrices with the same input differ in columns");
        padded_ = std::max(padded_, round_up(matrix->padded_cols, 16));
        const std::pair<int64_t, int64_t> wanted{matrix->group, std::max<int64_t>(matrix->num_groups, 1)};
        const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& group) { return group.first == wanted.first; });
        if (same == groups.end()) groups.push_back(wanted);
        else same->second = std::max(same->second, wanted.second);
    }
    const int64_t rows = tokens * (precision == Precision::wide ? 2 : 1);
    const int64_t usual = tile_size(ceil_div(rows, ceil_div(rows, kTokenTile)));  // equal tiles
    tiles_.clear();
    for (int64_t row = 0; row < rows; row += usual) tiles_.push_back({row, std::min(usual, tile_size(std::min(usual, rows - row)))});
    padded_rows_ = tiles_.back().row + tiles_.back().size;
    codes_.resize(padded_rows_ * (padded_ / kStep));
    scales_.resize(padded_rows_);
    sums_.resize(groups.size());
    for (size_t i = 0; i < groups.size(); ++i) {
        sums_[i].group = groups[i].first;
        sums_[i].num_groups = groups[i].second;
        sums_[i].of.resize(padded_rows_ * groups[i].second);
    }
    for (int64_t row = rows; row < padded_rows_; ++row) {  // rows that only fill the last tile
        const Tile& tile = tiles_.back();
        scales_[row] = 0;
        for (auto& sums : sums_)
            for (int64_t g = 0; g < sums.num_groups; ++g) sums.of[tile.row * sums.num_groups + g * tile.size + row - tile.row] = 0;
        for (int64_t step = 0; step < padded_ / kStep; ++step) codes_[tile.row * (padded_ / kStep) + step * tile.size + row - tile.row] = 0;
    }
}

void Activations::set_row_sums(const Tile& tile, int64_t at, const int32_t* sums16) {
    for (auto& sums : sums_) {
        const int64_t pieces = sums.group ? sums.group / 16 : padded_ / 16;
        int32_t* out = sums.of.data() + tile.row * sums.num_groups + at;
        for (int64_t g = 0; g < sums.num_groups; ++g) {
            int32_t total = 0;
            for (int64_t i = g * pieces; i < std::min((g + 1) * pieces, padded_ / 16); ++i) total += sums16[i];
            out[g * tile.size] = total;
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
        set_row_sums(tile, at, sums16.data());
        return;
    }
    const int64_t rows[2] = {2 * token, 2 * token + 1};
    uint32_t* codes[2];
    for (int i = 0; i < 2; ++i) codes[i] = codes_.data() + place(rows[i]).row * steps + rows[i] - place(rows[i]).row;
    const Tile& tile = place(rows[0]);  // an even number of rows gives tiles of even size: both lie in the same
    const float scale = kernels().quantize_wide(x, size_, padded_, codes[0], codes[1], tile.size, sums16.data(), sums16.data() + pieces);
    scales_[rows[0]] = 256 * scale;
    scales_[rows[1]] = scale;
    for (int i = 0; i < 2; ++i) set_row_sums(tile, rows[i] - tile.row, sums16.data() + i * pieces);
}

Panel Activations::panel(int64_t tile, const Matrix& matrix) const {
    const Tile& at = tiles_[tile];
    const auto sums = std::find_if(sums_.begin(), sums_.end(), [&](const Sums& entry) { return entry.group == matrix.group; });
    return {codes_.data() + at.row * (padded_ / kStep), sums->of.data() + at.row * sums->num_groups, scales_.data() + at.row, at.size};
}

}  // namespace tk
