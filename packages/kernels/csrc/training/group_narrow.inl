// Products of scale groups on vectors of 8 rows: 16 rows x 6 tokens in registers, groups in order, so that a result does not
// depend on the tile. The dot products (Sums) are those of int_avx2.inl.
//
// A vector holds 8 rows x 4 inputs of code + Offset: 1 for ternary codes, whose sums of pairs fit into 16 bits, else 128.
// Sums begin at -Offset * (sum of the group's inputs), which takes it out.

#include "training/group_packing.inl"

namespace tk {
namespace {

template <typename T, int Offset, int M>
void group_tile(const GroupWeights& weights, const GroupTokens& tokens, int64_t token, int64_t row, const uint8_t* packed, const float* scales,
                T* out, int64_t stride) {
    using Dots = Sums<Offset == 1 ? 2 : 255, kParts, M>;
    const int64_t groups = weights.cols / weights.group, steps = weights.group / 4;
    const int8_t* x = tokens.codes + token * weights.cols;
    Vec sums[M * kParts] = {};
    VecInt totals[M * kParts];
    for (int64_t g = 0; g < groups; ++g) {
        for (int m = 0; m < M; ++m)
            for (int h = 0; h < kParts; ++h) totals[m * kParts + h] = VecInt{} - Offset * tokens.group_sums[(token + m) * groups + g];
        for (int64_t step = g * steps, end; step < (g + 1) * steps; step = end) {
            end = std::min((g + 1) * steps, step + Dots::steps);
            Dots dots;
            dots.begin(totals);
            for (int64_t s = step; s < end; ++s) {
                Bytes w[kParts];
                unrolled<kParts>([&](auto h) TK_INLINED { w[h.value] = load_bytes(packed + s * kStepBytes + h.value * sizeof(Bytes)); });
                unrolled<M>([&](auto m) TK_INLINED {
                    uint32_t four;
                    std::memcpy(&four, x + m.value * weights.cols + 4 * s, 4);
                    const auto inputs = Dots::input(&four);
                    unrolled<kParts>([&](auto h) TK_INLINED { dots.template dot<h.value, m.value>(w[h.value], inputs); });
                });
            }
            dots.end(totals);
        }
        for (int h = 0; h < kParts; ++h) {
            const Vec scale = load(scales + 16 * g + h * kWidth);
            for (int m = 0; m < M; ++m) sums[m * kParts + h] = fma(to_float(totals[m * kParts + h]), scale, sums[m * kParts + h]);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int h = 0; h < kParts; ++h) {
            const int64_t start = row + h * kWidth;
            const Vec value = sums[m * kParts + h] / splat(tokens.inverse_scales[token + m]);
            T* to = out + (token + m) * stride + start;
            if (start + kWidth <= weights.rows) put(to, value, Whole{});
            else if (start < weights.rows) put(to, value, First{weights.rows - start});
        }
}

template <typename T, int Offset>
void group_rows(const GroupWeights& weights, const GroupTokens& tokens, int64_t first, int64_t last, uint8_t* packed, T* out, int64_t stride) {
    float* scales = reinterpret_cast<float*>(packed + weights.cols / 4 * kStepBytes);
    for (int64_t row = first; row < last; row += 16) {
        pack_rows<Offset>(weights, row, packed);
        pack_scales(weights, row, scales);
        int64_t token = 0;
        for (; token + kGroupTokens <= tokens.tokens; token += kGroupTokens)
            group_tile<T, Offset, kGroupTokens>(weights, tokens, token, row, packed, scales, out, stride);
        for (; token < tokens.tokens; ++token) group_tile<T, Offset, 1>(weights, tokens, token, row, packed, scales, out, stride);
    }
}

inline bool are_ternary(const int8_t* codes, int64_t size) {
    uint8_t largest = 0;
    for (int64_t i = 0; i < size; ++i) largest = std::max(largest, static_cast<uint8_t>(codes[i] + 1));
    return largest <= 2;
}

template <typename T>
void group_product(const GroupWeights& weights, const GroupTokens& tokens, int64_t first, int64_t last, uint8_t* scratch, T* out,
                   int64_t stride) {
    const int64_t rows = std::min(last, weights.rows) - first;
    if (are_ternary(weights.codes + first * weights.cols, rows * weights.cols))
        group_rows<T, 1>(weights, tokens, first, last, scratch, out, stride);
    else group_rows<T, 128>(weights, tokens, first, last, scratch, out, stride);
}

}  // namespace
}  // namespace tk
