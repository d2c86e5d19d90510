// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over all tensors of an optimizer at once.
#pragma once

#include <vector>

#include "training/rows.h"
#include "training/team.h"

namespace tk {

// Moments have 32 bits (float), 16 (bfloat16) or 8: the tensor's codes, then an exponent for each kMomentBlock of them.
struct AdamTensor {
    float* weight;
    const float* grad;
    void *first, *second;
    int64_t size;
    int bits;
    uint32_t number;  // tensors of other numbers are rounded by other noise
    int64_t step;     // from 1
    double learning_rate, weight_decay;
};
struct AdamOptions {
    double beta1, beta2, eps;
};

// The first tensor with a gradient that is no number or beyond kLargestGradient, and then nothing is changed; else -1.
int64_t adamw(Team team, const std::vector<AdamTensor>& tensors, const AdamOptions& options);

}  // namespace tk
