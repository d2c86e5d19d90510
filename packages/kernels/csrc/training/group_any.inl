// Products of scale groups in plain C++, which compilers vectorise for what the including file is compiled for.

#include "training/lanes.inl"

namespace tk {
namespace {

template <typename T>
void group_product(const GroupWeights& weights, const GroupTokens& tokens, int64_t first, int64_t last, uint8_t*, T* out, int64_t stride) {
    const int64_t groups = weights.cols / weights.group;
    for (int64_t t = 0; t < tokens.tokens; ++t) {
        const int8_t* x = tokens.codes + t * weights.cols;
        for (int64_t row = first; row < last; ++row) {
            const int8_t* w = weights.codes + row * weights.cols;
            float total = 0;
            for (int64_t g = 0; g < groups; ++g) {
                int32_t dot = 0;
                for (int64_t i = g * weights.group; i < (g + 1) * weights.group; ++i) dot += int32_t{x[i]} * w[i];
                total = std::fma(static_cast<float>(dot), weights.scales[row * groups + g], total);
            }
            put(out + t * stride + row, splat(total / tokens.inverse_scales[t]), First{1});
        }
    }
}

}  // namespace
}  // namespace tk
