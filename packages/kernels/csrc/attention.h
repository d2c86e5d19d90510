// Attention of a few query rows that share one key/value head, over the pages of one sequence.
#pragma once

#include "common.h"

namespace tk {

constexpr int64_t kPageTokens = 32;

// One head's part of a page. Keys lie transposed, so that a vector holds one component of many keys.
// float16: keys [head_dim][32], values [32][head_dim]. int8: the same codes, times a float scale per token.
struct PageView {
    const void* keys;
    const void* values;
    const float* key_scales;    // [32], null for float16
    const float* value_scales;  // [32], null for float16
};

struct AttentionJob {
    const float* queries;  // [rows][head_dim], already multiplied by 1 / sqrt(d)
    const int64_t* visible;  // [rows]: number of tokens that the row sees (its own is the last)
    int64_t rows;
    int64_t head_dim;  // padded to a multiple of 16
    const PageView* pages;
    float* out;      // [rows][head_dim]
    float* scratch;  // [rows][kPageTokens + 3]
};

}  // namespace tk
