// What the machine can do at most, and how long single kernels take: benchmarks/roofline.py.
// Times come as seconds of each repeat, after one that does not count.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attend.h"
#include "kv_cache.h"
#include "linear.h"

namespace tk {

using Seconds = std::vector<double>;

Seconds time_repeats(int repeats, const std::function<void()>& work);

// Every thread reads `bytes` of its own `passes` times: memory where they exceed the caches, else a cache.
Seconds time_reads(Pool& pool, int64_t bytes, int64_t passes, int repeats);

// Multiply-adds per loop of time_peak, of one thread and round; 0: no such loop for the instruction set that runs.
int64_t peak_macs(bool integers);
// A loop on registers alone, of the widest dot products (integers: int8 x int8 into int32) or float32 multiply-adds.
Seconds time_peak(Pool& pool, bool integers, int64_t rounds, int repeats);

// All products of one input, activations quantized beforehand.
Seconds time_products(Pool& pool, const std::vector<std::shared_ptr<Matrix>>& matrices, const float* x, int64_t tokens, Precision precision,
                      int repeats);

// out[tokens][size] of a kernel that treats tokens alone: "rms_norm" (y: weight), "rope" (y: cos, sin), "silu_gate", "relu2_gate" (y: up,
// as large as x), "quantize" (out: the values after rounding). Raises std::invalid_argument on other names.
Seconds time_rows(Pool& pool, const std::string& kernel, const float* x, const float* y, int64_t tokens, int64_t size, int repeats, float* out);
// Values that y must have for the kernel.
int64_t values_of_y(const std::string& kernel, int64_t tokens, int64_t size);

// The attention of the last `new_tokens` of `tokens` in each layer; out[new_tokens][heads][head_dim] of the last. Layers hold copies, so
// that the cache exceeds the processor's.
struct AttentionSize {
    int64_t layers, new_tokens, heads, kv_heads, head_dim, tokens, window;
};
Seconds time_attention(Pool& pool, const AttentionSize& size, const float* queries, const float* keys, const float* values, CacheType type,
                       int repeats, float* out);

}  // namespace tk
