// What an instruction set provides for training: functions on one row (or a strip of columns), for float32 and bfloat16.
// training/training.cpp shares them among threads; every result depends on its own row alone.
#pragma once

#include <cstdint>

namespace tk {

struct Bf16 {
    uint16_t bits;
};

// Stochastic rounding: the noise of element i is a function of seed and i.
struct Noise {
    uint32_t seed;
    bool on;
};

constexpr int64_t kStrip = 64;       // columns that quantize_columns takes at once
constexpr int64_t kGroupTokens = 6;  // tokens in one tile of group_product

struct GroupWeights {
    const int8_t* codes;   // [rows][cols]
    const float* scales;   // [rows][groups]
    int64_t rows, cols, group;
};
struct GroupTokens {
    const int8_t* codes;          // [tokens][cols]
    const int32_t* group_sums;    // [tokens][groups]
    const float* inverse_scales;  // [tokens]
    int64_t tokens;
};

// A run of `size` inputs of a transposed matrix [size][cols] whose codes are chosen in turn.
struct Sweep {
    float* values;         // compensate: the weights, which become their errors; descend: half the gradient of the error
    float* codes;          // written; descend: also read
    const float* factors;  // [size][size]
    const float* scales;   // [cols]
    int64_t size, cols;
};

// The numbers of one AdamW update. Rate and eps include the corrections of both moments' bias.
struct AdamStep {
    float kept;            // 1 - learning rate * weight decay
    float rate, eps;       // weight = kept * weight - rate * first / (sqrt(second) + eps)
    float share1;          // 1 - beta1
    float beta2, share2;   // 1 - beta2
    uint32_t seed;         // of the chance by which moments are rounded
};
constexpr int64_t kMomentBlock = 256;          // codes that share an exponent
constexpr float kLargestGradient = 1e19f;      // whose square is a float32

// Moments in 8 bits: a code for each weight and an exponent for the block.
struct CodedMoments {
    uint8_t *first, *second;
    uint8_t *first_exponent, *second_exponent;
};

// Cosines and sines [size] of one token, both float32 or both bfloat16.
struct Angles {
    const void *cosine, *sine;
    bool bf16;
};

// out[token * stride + row] for the rows [first, last), first a multiple of 16: the sum over groups of (int32 sum of the
// group) * scale, groups in order, over the token's inverse scale. `scratch` is for packing.
template <typename T>
using GroupProductFn = void (*)(const GroupWeights&, const GroupTokens&, int64_t first, int64_t last, uint8_t* scratch, T* out,
                                int64_t stride);

template <typename T>
struct TypedRows {
    // codes = round(x * inverse), inverse = 127 / max(max|x|, smallest); returns inverse, or 0 where x is not finite.
    float (*quantize)(const T* x, int64_t size, float smallest, Noise noise, int8_t* codes);
    // The same by columns of x[rows][stride] with rows multiplied by `factors` (or 1: nullptr), transposed: codes[size][rows],
    // inverse[size], size <= kStrip. Returns whether all is finite.
    bool (*quantize_columns)(const T* x, int64_t rows, int64_t stride, int64_t size, const float* factors, float smallest, Noise noise,
                             int8_t* codes, float* inverse);
    // out = sums * row * columns (or 1: nullptr).
    void (*scale_sums)(const int32_t* sums, int64_t size, float row, const float* columns, T* out);
    // out = weight * x * factor, factor = 1 / sqrt(mean(x^2) + eps), which it returns.
    float (*norm)(const T* x, const float* weight, int64_t size, float eps, T* out);
    // Gradient of x; that of the weight is added to grad_weight.
    void (*norm_backward)(const T* grad, const T* x, const float* weight, int64_t size, float factor, T* grad_x, float* grad_weight);
    // out = gate / (1 + exp(-gate)) * up.
    void (*swiglu)(const T* gate, const T* up, int64_t size, T* out);
    void (*swiglu_backward)(const T* grad, const T* gate, const T* up, int64_t size, T* grad_gate, T* grad_up);
    // One token's heads of `size`, turned by angles (turned.inl).
    void (*turn)(const T* x, int64_t heads, int64_t size, const Angles&, T* out);
    void (*turn_backward)(const T* grad, int64_t heads, int64_t size, const Angles&, T* grad_x);
    // Loss of one row in nats; where grad_factor is not 0, logits become (softmax - onehot) * grad_factor. `scratch` [size].
    double (*cross_entropy)(T* logits, int64_t size, int64_t label, float grad_factor, float* scratch);
    // Divergence of softmax(logits) from softmax(expected) in nats; where grad_factor is not 0, logits become
    // (softmax(logits) - softmax(expected)) * grad_factor. `scratch` [2][size].
    double (*divergence)(T* logits, const T* expected, int64_t size, float grad_factor, float* scratch);
    // Scores of one query become softmax(scores * scale) over the first `visible` ones that `allowed` has (nullptr: all);
    // the others 0, and all of them where there is none. `scratch` [visible].
    void (*softmax)(T* scores, const uint8_t* allowed, int64_t size, int64_t visible, float scale, float* scratch);
    // The gradient of the shares becomes that of the scores.
    void (*softmax_backward)(const T* shares, T* grad, int64_t size, int64_t visible, float scale);
    GroupProductFn<T> group_product;
    // Updates `size` weights from number `index` of their tensor on, and their moments, which are rounded by chance.
    void (*adamw)(const AdamStep&, int64_t index, int64_t size, float* weight, const float* grad, T* first, T* second);
};

struct TrainingTable {
    // out = codes * multiple.
    void (*multiply_codes)(const int8_t* codes, int64_t size, int32_t multiple, int8_t* out);
    // Sum of |w|.
    double (*sum_magnitudes)(const float* w, int64_t size);
    // codes = clip(round(w * inverse), -1, 1).
    void (*ternary_codes)(const float* w, int64_t size, float inverse, int8_t* codes);
    void (*group_sums)(const int8_t* codes, int64_t size, int64_t group, int32_t* sums);
    // codes = clip(round(latent / scale), -1, 1).
    void (*latent_codes)(const float* latent, int64_t size, float scale, int8_t* codes);
    // grad, of the values scale * codes, becomes that of `latent`: 0 from 1.5 scales on. Returns that of the scale (LSQ).
    float (*latent_gradients)(const float* latent, int64_t size, float scale, float* grad);
    // Gradient of the scale of fixed codes.
    float (*code_gradient)(const int8_t* codes, int64_t size, const float* grad);
    // Columns [first, last): each input is rounded, its error over the diagonal's factor is taken off those after it.
    void (*compensate)(const Sweep&, int64_t first, int64_t last);
    // Columns [first, last): each code becomes the best one, all others held.
    void (*descend)(const Sweep&, int64_t first, int64_t last);
    // Whether all magnitudes are numbers up to `most`.
    bool (*is_within)(const float* x, int64_t size, float most);
    // As TypedRows::adamw, of at most kMomentBlock weights.
    void (*adamw_block)(const AdamStep&, int64_t index, int64_t size, float* weight, const float* grad, const CodedMoments&);
    TypedRows<float> floats;
    TypedRows<Bf16> halves;
};

}  // namespace tk
