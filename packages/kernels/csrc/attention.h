// Attention of a few query rows that share one key/value head, over the pages of one sequence.
#pragma once

#include "common.h"

namespace tk {

constexpr int64_t kPageTokens = 32;
// Scratch of one row: the page's probabilities, decay, maximum and sum so far.
constexpr int64_t kRowScratch = kPageTokens + 3;

// One head's part of a page. Keys lie transposed, so that a vector holds one component of many keys.
// Keys [head_dim][32], values [32][head_dim]; int8 has a float scale per token besides.
enum class CacheType { f32, f16, int8 };
struct PageView {
    const void* keys;
    const void* values;
    const float* key_scales;    // int8: [32]
    const float* value_scales;  // int8: [32]
};

struct AttentionJob {
    CacheType type;
    const float* queries;  // [rows][head_dim], already multiplied by 1 / sqrt(d)
    const int64_t* visible;  // [rows]: number of tokens up to and with the row's own; it sees the last `window` of them
    int64_t window;          // 0: all
    int64_t rows;
    int64_t head_dim;  // padded to a multiple of 16
    const PageView* pages;  // those before the first row's window are not read
    float* out;      // [rows][head_dim]
    float* scratch;  // [rows][kRowScratch]
};

}  // namespace tk
