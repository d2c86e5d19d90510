// What a screen says of some states: its products, and upper bounds of the head's.
#pragma once

#include <vector>

#include "linear.h"
#include "screen.h"

namespace tk {

class ScreenBounds {
public:
    // States [count][cols]. False where a state is not finite: then there are no bounds.
    bool find(Pool& pool, const Screen& screen, const float* states, int64_t count);

    // [padded rows], of state `index`. Beyond the head's rows they mean nothing.
    const float* products(int64_t index) const { return far_products_.data() + index * stride_; }
    const float* upper(int64_t index) const { return upper_.data() + index * stride_; }
    // [blocks of rows]: the largest of each block; infinite where a bound is no number.
    const float* peak_products(int64_t index) const { return peaks_.data() + 2 * index * num_blocks_; }
    const float* peak_upper(int64_t index) const { return peak_products(index) + num_blocks_; }

private:
    bool split(Pool& pool, const Screen& screen, const float* states, int64_t count);
    void add(const Screen& screen, int64_t index, int64_t first, int64_t last);

    int64_t stride_ = 0, num_blocks_ = 0;
    Activations near_, far_;
    std::vector<Screen::Lengths> lengths_;
    Buffer<float> near_inputs_, far_inputs_, near_products_, far_products_, upper_, peaks_;
};

}  // namespace tk
