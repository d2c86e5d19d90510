// What an instruction set provides. Every isa_*.cpp fills one table; isa.cpp chooses.
#pragma once

#include "matrix.h"
#include "training/rows.h"

namespace tk {

// int8 activations of one tile of tokens, laid out for broadcasting:
// codes[step * tokens + t] holds inputs 4*step .. 4*step+3 of token t. For complex matrices the halves of a token are two
// neighbours of one scale, as if they were tokens.
struct Panel {
    const uint32_t* codes;
    const int32_t* starts;  // [groups][tokens]: -offset of the format * sum of a scale group's codes (one group: the row)
    const float* scales;   // [tokens]: the value of a code is code * scale
    int64_t tokens;        // one of kTileSizes
    const float* group_scales;  // [groups][tokens]: factors of the scales for the codes of a group; null: all 1
    const float* group_sums;    // [groups][tokens]: sums of a group's codes times these factors; null: the matrix has no minimums
};
// Larger tiles (12) were slower: GCC keeps no 24 sums in registers. With scale groups, whose float sums need registers
// too, 6 tokens were the fastest.
constexpr int64_t kTileSizes[] = {1, 2, 3, 4, 6, kTokenTile};
constexpr int64_t kGroupedTokenTile = 6;
// Largest magnitude of a token that is not smaller when it is quantized (bitnet_arch.rounding.MIN_SCALE).
constexpr float kMinScale = 1e-5f;

// out[t * stride + row] = sum over inputs, for the rows of blocks [first, last); writes whole blocks of 16 rows. Of complex
// matrices: rows k and k + rows / 2 of token t / 2, and nothing beyond.
using MatmulFn = void (*)(const Matrix&, const Panel&, int64_t first, int64_t last, float* out, int64_t stride);

// Quantizes one token: codes[step * tokens] for each step; zero beyond `size`. Returns the inverse scale 127 / max|x|, or NaN (all
// codes are zero then) where x has NaN or infinity: what is made of it is NaN too. sums16: [padded / 16] sums of 16 codes each.
using QuantizeFn = float (*)(const float* x, int64_t size, int64_t padded, uint32_t* codes, int64_t tokens, int32_t* sums16);
// As above in 16 bits, as two int8 halves: value = (256 * high + low) * scale. Returns the scale, or NaN.
using QuantizeWideFn = float (*)(const float* x, int64_t size, int64_t padded, uint32_t* high, uint32_t* low, int64_t tokens,
                                 int32_t* high_sums16, int32_t* low_sums16);
// out = weight * x / sqrt(mean(x^2) + eps), NaN where the mean is not finite; out may be x.
using RmsNormFn = void (*)(const float* x, const float* weight, int64_t size, float eps, float* out);
// Rotates halves of one head in place (Hugging Face's convention). cos, sin: [size / 2].
using RopeFn = void (*)(float* head, const float* cos, const float* sin, int64_t size);
// out = act(gate) * up; act = SiLU, squared ReLU or GELU (tanh); out may be gate.
using GatedFn = void (*)(const float* gate, const float* up, int64_t size, float* out);
// float16, nearest even, what lies beyond it +-65504; a NaN stays one.
using ToHalfFn = void (*)(const float* x, int64_t size, uint16_t* out);
using AddFn = void (*)(float* x, const float* y, int64_t size);  // x += y
// out[r] = rows[r] . x, for `count` rows [size].
using ProjectFn = void (*)(const float* x, const float* rows, int64_t count, int64_t size, float* out);
// out[i] += sum over r of factors[r] * rows[r * stride + i], i < size.
using CombineFn = void (*)(const float* factors, const float* rows, int64_t count, int64_t stride, int64_t size, float* out);

struct AttentionJob;  // attention.h
struct Softmax;
// The rows' softmax over what they see of one block of tokens. Only its own rows of `out` are written.
using AttendBlockFn = void (*)(const AttentionJob&, int64_t block, const Softmax& out);
// Adds what the rows saw of a later block; totals of 0 mean nothing so far.
using FoldFn = void (*)(const Softmax& later, int64_t rows, int64_t head_dim, const Softmax& sofar);

struct KernelTable {
    MatmulFn matmul[kNumFormats];
    QuantizeFn quantize;
    QuantizeWideFn quantize_wide;
    RmsNormFn rms_norm;
    RopeFn rope;
    GatedFn silu_gate, relu2_gate, gelu_tanh_gate;
    AddFn add;
    ProjectFn project;
    CombineFn combine;
    ToHalfFn to_half;
    AttendBlockFn attend_block;
    FoldFn fold;
    TrainingTable training;
};

// What an extension of an instruction set makes faster: constants, because code compiled for it may not run without it.
struct IntegerProducts {
    MatmulFn matmul[kNumFormats];
    GroupProductFn<float> of_floats;
    GroupProductFn<Bf16> of_halves;
};

}  // namespace tk
