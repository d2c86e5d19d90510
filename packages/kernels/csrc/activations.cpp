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
    if (name == "groups") return Precision::groups;
    if (name == "halves") return Precision::halves;
    throw std::invalid_argument("precision '" + name + "' is none of int8, wide, groups, halves");
}

void Activations::prepare(int64_t tokens, const std::vector<const Matrix*>& matrices, Precision precision) {
    tokens_ = tokens;
    precision_ = precision;
    size_ = matrices.front()->row_inputs();
    padded_ = 0;
    for (const Matrix* matrix : matrices) {
        if (is_complex(matrix->format) != (precision == Precision::halves))
            throw std::invalid_argument(std::string("a matrix of format ") + info(matrix->format).name +
                                        (is_complex(matrix->format) ? " takes inputs as halves, and no others" : " takes no halves"));
        if (matrix->row_inputs() != size_) throw std::invalid_argument("matrices with the same input differ in columns");
        padded_ = std::max(padded_, round_up(matrix->padded_cols / (precision == Precision::halves ? 2 : 1), 16));
    }
    lay_out_groups(matrices);
    const int64_t rows = tokens * rows_per_token();
    const bool grouped = std::any_of(matrices.begin(), matrices.end(), [](const Matrix* matrix) { return matrix->group != 0; });
    const int64_t most = grouped ? kGroupedTokenTile : kTokenTile;
    const int64_t usual = tile_size(ceil_div(rows, ceil_div(rows, most)));  // equal tiles
    tiles_.clear();
    for (int64_t row = 0; row < rows; row += usual) tiles_.push_back({row, std::min(usual, tile_size(std::min(usual, rows - row)))});
    padded_rows_ = tiles_.back().row + tiles_.back().size;
    codes_.resize(padded_rows_ * (padded_ / kStep));
    scales_.resize(padded_rows_);
    for (auto& groups : groups_) {
        groups.starts.resize(padded_rows_ * groups.num_groups);
        groups.scales.resize(group_ ? padded_rows_ * groups.num_groups : 0);
        groups.sums.resize(groups.has_minimums ? padded_rows_ * groups.num_groups : 0);
    }
    thread_local std::vector<int32_t> zeros;
    zeros.assign(padded_ / 16, 0);
    for (int64_t row = rows; row < padded_rows_; ++row) {  // rows that only fill the last tile
        const Tile& tile = tiles_.back();
        scales_[row] = 0;
        set_groups(tile, row - tile.row, zeros.data(), nullptr);
        for (int64_t step = 0; step < padded_ / kStep; ++step) codes_[tile.row * (padded_ / kStep) + step * tile.size + row - tile.row] = 0;
    }
}

void Activations::lay_out_groups(const std::vector<const Matrix*>& matrices) {
    group_ = 0;
    size_t count = 0;
    groups_.resize(matrices.size());
    for (const Matrix* matrix : matrices) {
        const int offset = info(matrix->format).offset;
        const auto end = groups_.begin() + static_cast<int64_t>(count);
        const auto same = std::find_if(groups_.begin(), end, [&](const Groups& g) { return g.group == matrix->group && g.offset == offset; });
        if (same == end) {
            ++count;
            same->group = matrix->group;
            same->offset = offset;
            same->num_groups = 1;
            same->has_minimums = false;
        }
        same->num_groups = std::max(same->num_groups, matrix->num_groups);
        same->has_minimums |= matrix->has_minimums;
        if (precision_ == Precision::groups) group_ = std::max(group_, matrix->group);
    }
    groups_.resize(count);
    if (precision_ != Precision::groups) return;
    for (const Matrix* matrix : matrices)
        if (is_ternary(matrix->format) || matrix->group == 0 || group_ % matrix->group)
            throw std::invalid_argument(std::string("a matrix of format ") + info(matrix->format).name + " in groups of " +
                                        std::to_string(matrix->group) + " cannot take inputs in groups of " + std::to_string(group_) +
                                        "; only q4, q6 and q8 can, in groups that divide these");
}

const Activations::Groups& Activations::groups_of(const Matrix& matrix) const {
    const int offset = info(matrix.format).offset;
    return *std::find_if(groups_.begin(), groups_.end(), [&](const Groups& g) { return g.group == matrix.group && g.offset == offset; });
}

void Activations::set_groups(const Tile& tile, int64_t at, const int32_t* sums16, const float* scales) {
    for (auto& groups : groups_) {
        const int64_t pieces = groups.group ? groups.group / 16 : padded_ / 16, first = tile.row * groups.num_groups + at;
        for (int64_t g = 0; g < groups.num_groups; ++g) {
            int32_t total = 0;
            for (int64_t i = g * pieces; i < std::min((g + 1) * pieces, padded_ / 16); ++i) total += sums16[i];
            const int64_t place = first + g * tile.size;
            const float scale = scales ? scales[g * groups.group / group_] : 1.0f;
            groups.starts[place] = -groups.offset * total;
            if (group_) groups.scales[place] = scale;
            if (groups.has_minimums) groups.sums[place] = static_cast<float>(total) * scale;
        }
    }
}

void Activations::set_by_groups(int64_t token, const float* x, int32_t* sums16) {
    thread_local std::vector<float> scales;
    scales.resize(size_ / group_);
    const Tile& tile = tiles_[token / tiles_.front().size];
    const int64_t at = token - tile.row;
    uint32_t* codes = codes_.data() + tile.row * (padded_ / kStep) + at;
    for (int64_t start = 0; start < size_; start += group_)
        scales[start / group_] = 1.0f / kernels().quantize(x + start, group_, group_, codes + start / kStep * tile.size, tile.size, sums16 + start / 16);
    scales_[token] = 1;
    set_groups(tile, at, sums16, scales.data());
}

// Rounded as one row, so that the halves have one scale.
void Activations::set_halves(int64_t token, const float* x, int32_t* sums16) {
    thread_local std::vector<float> apart;
    thread_local std::vector<uint32_t> codes;
    const int64_t steps = padded_ / kStep;
    if (padded_ != size_) {
        apart.assign(2 * padded_, 0.0f);
        for (int64_t half = 0; half < 2; ++half) std::copy_n(x + half * size_, size_, apart.data() + half * padded_);
        x = apart.data();
    }
    codes.resize(2 * steps);
    const float scale = 1.0f / kernels().quantize(x, 2 * padded_, 2 * padded_, codes.data(), 1, sums16);
    for (int64_t half = 0; half < 2; ++half) {
        const int64_t row = 2 * token + half;
        const Tile& tile = tiles_[row / tiles_.front().size];  // both halves lie in the same: tiles have even sizes
        const int64_t at = row - tile.row;
        for (int64_t step = 0; step < steps; ++step) codes_[tile.row * steps + step * tile.size + at] = codes[half * steps + step];
        scales_[row] = scale;
        set_groups(tile, at, sums16 + half * (padded_ / 16), nullptr);
    }
}

void Activations::set(int64_t token, const float* x) {
    thread_local std::vector<int32_t> sums16;
    const int64_t pieces = padded_ / 16, steps = padded_ / kStep;
    sums16.resize(2 * pieces);
    if (group_) return set_by_groups(token, x, sums16.data());
    if (precision_ == Precision::halves) return set_halves(token, x, sums16.data());
    const auto place = [&](int64_t row) -> const Tile& { return tiles_[row / tiles_.front().size]; };
    if (!is_wide()) {
        const Tile& tile = place(token);
        const int64_t at = token - tile.row;
        scales_[token] = 1.0f / kernels().quantize(x, size_, padded_, codes_.data() + tile.row * steps + at, tile.size, sums16.data());
        set_groups(tile, at, sums16.data(), nullptr);
        return;
    }
    const int64_t rows[2] = {2 * token, 2 * token + 1};
    uint32_t* codes[2];
    for (int i = 0; i < 2; ++i) codes[i] = codes_.data() + place(rows[i]).row * steps + rows[i] - place(rows[i]).row;
    const Tile& tile = place(rows[0]);  // an even number of rows gives tiles of even size: both lie in the same
    const float scale = kernels().quantize_wide(x, size_, padded_, codes[0], codes[1], tile.size, sums16.data(), sums16.data() + pieces);
    scales_[rows[0]] = 256 * scale;
    scales_[rows[1]] = scale;
    for (int i = 0; i < 2; ++i) set_groups(tile, rows[i] - tile.row, sums16.data() + i * pieces, nullptr);
}

Panel Activations::panel(int64_t tile, const Matrix& matrix) const {
    const Tile& at = tiles_[tile];
    const Groups& groups = groups_of(matrix);
    const int64_t first = at.row * groups.num_groups;
    return {codes_.data() + at.row * (padded_ / kStep),
            groups.starts.data() + first,
            scales_.data() + at.row,
            at.size,
            group_ ? groups.scales.data() + first : nullptr,
            matrix.has_minimums ? groups.sums.data() + first : nullptr};
}

}  // namespace tk
