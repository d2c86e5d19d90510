// Logits of the likeliest tokens alone: a screen rules out most rows of the head, the others are multiplied in full.
//
// 1. Products of the screen give each row of the head an upper bound (screen_bounds.h).
// 2. The blocks of rows whose products are the largest are multiplied in full: what the `count`-th largest of their
//    logits is, the count-th largest of all is at least, and so for what is asked for by depth.
// 3. So are all blocks with a row whose bound reaches that. The rest are -inf.
//
// Logits that are given are those of the full head to the bit, the same kernels' on the same inputs. How many blocks are
// left depends on model and text: where it is not worth it, the full head computes, and the screen is tried later.
#pragma once

#include <vector>

#include "linear.h"
#include "screen_bounds.h"

namespace tk {

// Which logits of each row are needed: the `counts` largest, and those at most `depths` below the largest.
// counts: 0 for all.
struct Reach {
    const int32_t* counts;
    const float* depths;
};

class ScreenedHead {
public:
    // Rows of logits that came of a screen, and the blocks of the head that were multiplied for them.
    struct Use {
        int64_t rows = 0, blocks = 0;
    };

    // States [count][cols] after the final norm, and the same as `wide` activations of the head. False if the full head
    // has to compute them: nothing was written. logits: [count][rows of the head].
    bool run(Pool& pool, const Matrix& head, const Screen& screen, const float* states, int64_t count, const Activations& wide,
             const Reach& reach, float* logits);

    const Use& use() const { return use_; }

private:
    bool choose(Pool& pool, const Matrix& head, const Activations& wide, const Reach& reach, int64_t count);
    void choose_first(int64_t row, int64_t count);
    bool choose_rest(int64_t row, int64_t count, float depth, int64_t rows);
    bool is_chosen(int64_t block, int64_t count) const;  // for some row
    int64_t num_chosen(int64_t count) const;
    void multiply_chosen(Pool& pool, const Matrix& head, const Activations& wide, int64_t count);
    void give_out(Pool& pool, int64_t rows, int64_t count, float* logits) const;
    float logit(int64_t row, int64_t i) const { return products_[2 * row * stride_ + i] + products_[(2 * row + 1) * stride_ + i]; }

    Use use_;
    int64_t pause_ = 0;          // steps in full after one that was not worth it: more after each, fewer after others
    int64_t left_of_pause_ = 0;
    int64_t stride_ = 0, num_blocks_ = 0;
    ScreenBounds bounds_;
    Buffer<float> products_;       // of the head: [rows of `wide`][stride]
    std::vector<uint8_t> chosen_;  // [count][blocks]
    std::vector<uint8_t> done_;    // [blocks]
    std::vector<int32_t> order_;
    std::vector<float> found_;
};

}  // namespace tk
