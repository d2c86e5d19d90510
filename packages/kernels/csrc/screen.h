// A compact copy of a head: bounds of its products that rule out most rows, so that few are multiplied in full.
//
// A row w of the head and a state x are split by some directions P (few, as states lie close to few), and evened out by
// factors f of the directions' sums and g of the columns:
//   a = P x,  r = x - P^T a        w . x = (P w) / f . (f a) + w / g . (g r)
// `near` holds (P w) / f in 8 bits and `far` w / g in 4, each with one scale a row; f a and g r become int8. What that leaves
// out is bounded by Cauchy's inequality, with lengths kept for each row (`errors`) and found for each state (Lengths):
//   |w . x - product| <= errors[0] near + errors[1] far + errors[2] rounding
// The bound holds for the floats that the head's own kernels give, whatever P, f and g are: the roundings of all sums are
// in it. P, f and g decide how tight it is alone; of a language model 64 directions leave a quarter of a state's length.
//
// Memory: cols / 2 + directions + 20 bytes a row, beside 17 / 16 cols (q8, groups of 32) or 14 / 16 (q6, groups of 16).
#pragma once

#include "matrix.h"
#include "pool.h"

namespace tk {

struct Screen {
    std::shared_ptr<Matrix> near;  // q8 [rows, directions], no groups
    std::shared_ptr<Matrix> far;   // q4 [rows, cols], no groups
    Buffer<float> directions;      // [directions][cols], each of length 1 at most
    Buffer<float> factors;         // [directions + cols]: f, then g
    Buffer<float> errors;          // [3][padded rows]

    int64_t rows() const { return far->rows; }
    int64_t cols() const { return far->cols; }
    int64_t num_directions() const { return near->cols; }
    int64_t padded_rows() const { return far->row_blocks * kRowBlock; }
    int64_t num_bytes() const;

    // Of the inputs of near and far, and of what is lost when these become int8 and sums are rounded.
    struct Lengths {
        float near, far, rounding;
    };
    // Splits a state [cols] into `near_input` [directions] and `far_input` [cols].
    Lengths split(const float* state, float* near_input, float* far_input) const;
};

// Raises std::invalid_argument where directions [count][cols] are too long, factors [count + cols] not positive, or either not finite.
std::shared_ptr<Screen> pack_screen(Pool& pool, const Matrix& head, const float* directions, int64_t count, const float* factors);

}  // namespace tk
