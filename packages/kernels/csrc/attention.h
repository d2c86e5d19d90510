// Attention of a few query rows that share one key/value head, over the pages of one sequence.
//
// A sequence is cut into blocks of 256 tokens, counted from its beginning. A kernel takes the softmax of one block; blocks
// are folded together in their order (Dao et al. 2022, FlashAttention, algorithm 1). So a row's result depends, to the
// bit, on its own query and on what it sees alone, whoever computes which block (attend.h).
#pragma once

#include "common.h"

namespace tk {

constexpr int64_t kPageTokens = 32;
constexpr int64_t kBlockTokens = 256;
constexpr int64_t kBlockPages = kBlockTokens / kPageTokens;
constexpr int64_t kTileLanes = 16;  // numbers that lie side by side in a page

// One head's part of a page, in tiles that are read from their first byte to their last.
// Keys [2][head_dim][16]: one component of 16 tokens side by side. Values [head_dim / 16][32][16]: 16 components of a token.
// int8 has pairs of components, keys [2][head_dim / 2][16][2], and of tokens, values [head_dim / 16][16][16][2].
constexpr int64_t kMostInt8HeadDim = 512;  // sums of larger heads would not fit 32 bits
enum class CacheType { f32, f16, int8 };
struct PageView {
    const void* keys;
    const void* values;
    const float* key_scales;    // int8: [32], one per token
    const float* value_scales;  // int8: [32]
};

struct AttentionJob {
    CacheType type;
    const float* queries;  // [rows][head_dim], already multiplied by 1 / sqrt(d)
    const int64_t* visible;  // [rows]: number of tokens up to the last that the row sees; it sees the last `window` of them
    int64_t window;          // 0: all
    int64_t rows;
    int64_t head_dim;  // padded to a multiple of 16
    const PageView* pages;  // in whole blocks; those before the first row's window are not read
    int64_t num_blocks;     // while one is multiplied, the next is fetched: the last may be of another sequence, and for that alone
};

// Rows over some of their tokens, before the division by the total.
struct Softmax {
    float* sums;    // [rows][head_dim]: of exp(score - most) * value
    float* totals;  // [rows]: of exp(score - most); 0 where the row sees none of the tokens, and its sums are undefined
    float* most;    // [rows]: largest score
};

}  // namespace tk
