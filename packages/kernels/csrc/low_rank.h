// A low-rank correction beside a matrix: y = W x + up (down x), x as it is before the matrix's inputs are quantized.
#pragma once

#include "pool.h"

namespace tk {

struct LowRank {
    int64_t rows, cols, rank;
    Buffer<float> down;  // [rank][cols]
    Buffer<float> up;    // [rank][rows]

    // up: [rows][rank]
    LowRank(int64_t rows, int64_t cols, int64_t rank, const float* up, const float* down);
    // Factors as they are kept.
    LowRank(int64_t rows, int64_t cols, int64_t rank, Buffer<float> down, Buffer<float> up);
    int64_t num_bytes() const { return static_cast<int64_t>(sizeof(float)) * (down.size() + up.size()); }
};

struct Correction {
    const LowRank* pair;
    float* out;      // [tokens][stride], what the matrix gave
    int64_t stride;  // >= rows
};

// Adds all corrections of the inputs x [tokens][cols], which they share. between: for what lies between the factors.
// A token's result does not depend on the others, to the bit, nor on the number of threads.
void correct(Pool& pool, const float* x, int64_t tokens, const std::vector<Correction>& corrections, Buffer<float>& between);

}  // namespace tk
