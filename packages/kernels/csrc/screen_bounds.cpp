#include "screen_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tk {

namespace {

// Infinite where one is no number. In vectors of four: a block has 16 rows, but for the last.
float largest(const float* x, int64_t size) {
    constexpr int64_t kLanes = 4;
    constexpr float kInf = std::numeric_limits<float>::infinity();
    float most[kLanes] = {-kInf, -kInf, -kInf, -kInf};
    const auto take = [&](int64_t lane, float value) { most[lane] = value <= most[lane] ? most[lane] : value == value ? value : kInf; };
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) take(lane, x[i + lane]);
    for (; i < size; ++i) take(0, x[i]);
    return std::max(std::max(most[0], most[1]), std::max(most[2], most[3]));
}

}  // namespace

bool ScreenBounds::find(Pool& pool, const Screen& screen, const float* states, int64_t count) {
    constexpr int64_t kBlocksPerChunk = 256;
    if (!split(pool, screen, states, count)) return false;
    stride_ = screen.padded_rows();
    num_blocks_ = screen.far->row_blocks;
    near_products_.resize(near_.padded_rows() * stride_);
    far_products_.resize(far_.padded_rows() * stride_);
    upper_.resize(count * stride_);
    peaks_.resize(2 * count * num_blocks_);
    multiply(pool, near_, {{screen.near.get(), near_products_.data(), stride_}});
    multiply(pool, far_, {{screen.far.get(), far_products_.data(), stride_}});
    pool.run(ceil_div(num_blocks_, kBlocksPerChunk), [&](int64_t chunk, int) {
        for (int64_t index = 0; index < count; ++index)
            add(screen, index, chunk * kBlocksPerChunk, std::min(num_blocks_, (chunk + 1) * kBlocksPerChunk));
    });
    return true;
}

bool ScreenBounds::split(Pool& pool, const Screen& screen, const float* states, int64_t count) {
    const int64_t directions = screen.num_directions(), cols = screen.cols();
    lengths_.resize(count);
    near_inputs_.resize(count * directions);
    far_inputs_.resize(count * cols);
    near_.prepare(count, {screen.near.get()}, Precision::int8);
    far_.prepare(count, {screen.far.get()}, Precision::int8);
    pool.run(count, [&](int64_t index, int) {
        float *near_input = near_inputs_.data() + index * directions, *far_input = far_inputs_.data() + index * cols;
        lengths_[index] = screen.split(states + index * cols, near_input, far_input);
        near_.set(index, near_input);
        far_.set(index, far_input);
    });
    return std::all_of(lengths_.begin(), lengths_.end(), [](const Screen::Lengths& l) { return std::isfinite(l.near + l.far + l.rounding); });
}

// The sums of both products, in the place of far's, and the bounds, for blocks of rows [first, last).
void ScreenBounds::add(const Screen& screen, int64_t index, int64_t first, int64_t last) {
    const float* near = near_products_.data() + index * stride_;
    const float *of_near = screen.errors.data(), *of_far = of_near + stride_, *of_rounding = of_far + stride_;
    const Screen::Lengths length = lengths_[index];
    float *products = far_products_.data() + index * stride_, *upper = upper_.data() + index * stride_;
    for (int64_t r = first * kRowBlock; r < last * kRowBlock; ++r) {
        products[r] += near[r];
        upper[r] = products[r] + ((of_near[r] * length.near + of_far[r] * length.far) + of_rounding[r] * length.rounding);
    }
    float *peak_products = peaks_.data() + 2 * index * num_blocks_, *peak_upper = peak_products + num_blocks_;
    for (int64_t block = first; block < last; ++block) {
        const int64_t start = block * kRowBlock, rows = std::min(kRowBlock, screen.rows() - start);
        peak_products[block] = largest(products + start, rows);
        peak_upper[block] = largest(upper + start, rows);
    }
}

}  // namespace tk
