// Attention of one layer: the rows of a batch divided over threads.
//
// A part is some blocks of tokens of one span and one key/value head. Where spans and heads are many, as in prompts and
// large batches, a part has all its blocks and folds them as it goes. Where they are few, as for one token of a long
// sequence, parts are cut smaller, and blocks are folded when all are there: in the same order, hence to the same bits.
#pragma once

#include <algorithm>
#include <vector>

#include "kv_cache.h"
#include "pool.h"

namespace tk {

// Neighbouring new tokens of one sequence, which read its keys and values together.
struct Span {
    int64_t first_token, num_tokens;  // of the batch
    int64_t context;                  // tokens of the sequence before the first
    int64_t length;                   // tokens of the sequence after this call
    const int32_t* pages;             // of the sequence
};
constexpr int64_t kTokensPerSpan = 12;  // however many heads share keys, their rows fill tiles of 6

// What tokens see: all before them and the rest of their block, as far as it is there, or the last `window` of the tokens up to
// themselves.
struct Sight {
    int64_t block_size;
    int64_t window;  // 0: all, as is one of at least the context where blocks have several tokens

    // Of the token at a position, in a sequence of `length` tokens: those up to the last that it sees.
    int64_t visible(int64_t position, int64_t length) const { return std::min(length, (position / block_size + 1) * block_size); }
};

// Queries and results of a batch: heads lie side by side, tokens `stride` numbers apart.
struct Heads {
    int64_t num_heads;
    const float* queries;
    int64_t query_stride;
    float scale;  // of queries
    float* out;
    int64_t out_stride;
};

class Attention {
public:
    // The cache has the keys and values of all new tokens.
    void run(Pool& pool, const KvCache& cache, int64_t layer, const Sight& sight, const std::vector<Span>& spans, const Heads& heads);

    struct Part {
        const Span* span;
        int64_t kv_head, first_block, last_block;
        int64_t first_kept;  // where the first block's softmax is kept, if it is

        int64_t num_blocks() const { return last_block - first_block; }
        void cut(int64_t most_blocks, std::vector<Part>& parts) const;
    };

private:
    std::vector<Part> wholes_, parts_;
    Buffer<float> kept_;
};

}  // namespace tk
