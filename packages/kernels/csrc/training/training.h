// Training kernels over whole matrices, shared among threads. Results do not depend on their number.
#pragma once

#include "training/rows.h"
#include "training/team.h"

namespace tk {

// A row-major float32 or bfloat16 matrix of somebody else's.
struct FloatMatrix {
    void* data;
    bool bf16;
    int64_t rows, cols;
};
enum class Rounding { nearest, stochastic };

// The first row that is not finite, or -1.
int64_t quantize_rows(Team team, const FloatMatrix& x, float smallest, Rounding rounding, uint32_t seed, int8_t* codes, float* inverse);
// codes[cols][rows] of x * factors[row] (nullptr: 1). Whether all is finite.
bool quantize_columns(Team team, const FloatMatrix& x, const float* factors, float smallest, Rounding rounding, uint32_t seed, int8_t* codes,
                      float* inverse);
// out = sums * row_factors[row] * col_factors[col] (nullptr: 1); out may be sums.
void scale_sums(Team team, const int32_t* sums, const float* row_factors, const float* col_factors, const FloatMatrix& out);
// codes[rows][cols]; scales[1] (group 0) or [rows][cols / group]. The first row that is not finite, or -1.
int64_t ternarize(Team team, const float* weight, int64_t rows, int64_t cols, int64_t group, float smallest, int8_t* codes, float* scales);
// out[tokens][rows] = codes x codes with a scale for each group of the weights' inputs.
void group_product(Team team, const GroupWeights& weights, const int8_t* codes, const float* inverse, const FloatMatrix& out);

// The weights in int8 with one scale for each input: columns[rows][cols], col_scales[cols]; codes are within [-most, most].
void int8_columns(Team team, const GroupWeights& weights, float most, int8_t* columns, float* col_scales);

// Weights [rows][cols] with a scale for each group of a row's inputs, or for all (group 0).
struct LatentMatrix {
    const float* latent;
    const float* scales;
    int64_t rows, cols, group;
};
void latent_codes(Team team, const LatentMatrix& matrix, int8_t* codes);
// grad becomes that of the latent weights; grad_scales like the scales.
void latent_gradients(Team team, const LatentMatrix& matrix, float* grad, float* grad_scales);
void code_gradients(Team team, const int8_t* codes, const float* grad, int64_t rows, int64_t cols, int64_t group, float* grad_scales);
void compensate(Team team, const Sweep& sweep);
void descend(Team team, const Sweep& sweep);

void norm(Team team, const FloatMatrix& x, const float* weight, float eps, void* out, float* factors);
void norm_backward(Team team, const FloatMatrix& grad, const void* x, const float* weight, const float* factors, void* grad_x, float* grad_weight);
void swiglu(Team team, const FloatMatrix& gate, const void* up, void* out);
void swiglu_backward(Team team, const FloatMatrix& grad, const void* gate, const void* up, void* grad_gate, void* grad_up);
// Cosines and sines [tokens][size], which repeat for the next tokens of a matrix.
struct TokenAngles {
    const void *cosine, *sine;
    bool bf16;
    int64_t tokens, size;
};
// Rotary positions: each row's heads of `size` are turned. `out` is like x.
void turn(Team team, const FloatMatrix& x, const TokenAngles& angles, void* out);
void turn_backward(Team team, const FloatMatrix& grad, const TokenAngles& angles, void* grad_x);
// losses[row] in nats, 0 where the label is `ignored`; logits become their gradients where grad_factor is not 0.
void cross_entropy(Team team, const FloatMatrix& logits, const int64_t* labels, int64_t ignored, float grad_factor, double* losses);
// losses[row] = divergence of softmax(logits) from softmax(expected), in nats; logits become gradients likewise.
void divergence(Team team, const FloatMatrix& logits, const void* expected, float grad_factor, double* losses);

// Rows of scores of queries to keys: [batches][rows / batches], each batch's rows in runs of `queries` that all see the same
// keys. With a mask [batches][queries][keys] a query sees what it allows, else itself and the keys before it.
struct Visibility {
    int64_t batches, queries;
    const uint8_t* mask;
};
void softmax(Team team, const FloatMatrix& scores, const Visibility& visibility, float scale);
void softmax_backward(Team team, const FloatMatrix& grad, const void* shares, const Visibility& visibility, float scale);

}  // namespace tk
