// Chooses the next token of each sequence from its logits.
//
// Order of the steps, as in vLLM and transformers where they agree: mask, bias, repetition penalty, frequency
// and presence penalty, temperature, top-k, top-p, min-p, draw.
// Tokens are ranked by (logit descending, id ascending), so each filter keeps a prefix of one total
// order and equal logits are never a matter of luck:
//   mask     a token that it forbids has -inf: it is never drawn, whatever the steps below do
//   bias     x + b for each of a few tokens (OpenAI's logit_bias; -100 as good as forbids, 100 forces)
//   penalty  x > 0 ? x / p : x * p, once for every token that occurs in the history
//   counts   x - n * frequency - presence for every token that occurs n > 0 times in the answer (the tokens
//            drawn so far, as OpenAI and vLLM count; the prompt is no part of it)
//   greedy   temperature < 1e-5: the first of the ranking
//   top-k    the first k (0 = off)
//   top-p    the shortest prefix whose share of what top-k left is at least p (>= 1 token; 1 = off)
//   min-p    tokens whose probability is at least min_p times the most likely token's (0 = off)
//   draw     in ascending id among the survivors, the first whose running mass exceeds u * total
// The number u in [0, 1) is Philox4x32-10 of (seed, counter): it knows nothing of the batch.
//
// Reproducible to the bit on every instruction set: exp() is one polynomial without contracted
// multiply-adds (relative error < 2e-7), and masses exp((x - max) / T) are rounded to multiples of
// 2^-34, whose sums in double are exact up to 2^19 tokens, so no order of summation can change a
// choice. A token more than 24.3 nats below the most likely one is therefore never drawn.
//
// Cost per row: one pass for block maxima, one with exp() if something is drawn, one if log-probabilities
// are asked for; the filters look only into blocks whose maximum reaches their cut-off. A mask is read in the
// same passes; bias and penalties work on a copy of the row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace tk {

struct SampleRow {
    const float* logits = nullptr;  // [vocab]; -inf forbids a token
    float temperature = 1.0f;
    std::int32_t top_k = 0;
    float top_p = 1.0f;
    float min_p = 0.0f;
    float repetition_penalty = 1.0f;
    std::span<const std::int32_t> history;  // tokens that this penalty sees, any order, repeats allowed
    float presence_penalty = 0.0f;
    float frequency_penalty = 0.0f;
    std::span<const std::int32_t> answer;  // tokens that these two see, any order
    std::span<const std::int32_t> bias_ids;
    std::span<const float> bias_values;  // one for each id
    // [(vocab + 31) / 32]; bit i % 32 of word i / 32 is set if token i may be drawn. Null: all may. This is the
    // layout of llguidance and xgrammar.
    const std::uint32_t* mask = nullptr;
    std::uint64_t seed = 0;
    std::uint64_t counter = 0;        // index of the drawn token in its text
    std::int32_t num_logprobs = -1;  // alternatives to report; -1 = no log-probabilities at all
};

struct SampleResult {
    std::int32_t token = -1;
    // Of `token` under the raw logits (before mask, bias, penalties and temperature); NaN if not asked for.
    float logprob = 0.0f;
    std::vector<std::int32_t> top_tokens;  // best first
    std::vector<float> top_logprobs;
};

// Runs body(0) .. body(n - 1), in any order and on any threads.
using ParallelFor = std::function<void(std::size_t, const std::function<void(std::size_t)>&)>;

// Fills results[i] from rows[i]. An empty `parallel_for` works in this thread.
// Throws std::invalid_argument naming row and value: NaN or +inf logits, no finite logit, a mask that leaves
// none, parameters or tokens out of range.
void sample(std::span<const SampleRow> rows, std::size_t vocab, std::span<SampleResult> results,
            const ParallelFor& parallel_for = {});

// The number in [0, 1) that a draw uses: 53 bits of Philox4x32-10, key = seed, counter words
// (low, high, 0, 0): ((out0 >> 5) * 2^26 + (out1 >> 6)) * 2^-53.
double sample_uniform(std::uint64_t seed, std::uint64_t counter);

}  // namespace tk
