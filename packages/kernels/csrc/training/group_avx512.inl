// Products of scale groups with AVX-512 VNNI: 32 rows x 6 tokens in registers, groups in order, so that a result does not
// depend on the tile.
//
// A vector holds 16 rows x 4 inputs of code + 128; sums begin at -128 * (sum of the group's inputs), which takes it out.

#include <immintrin.h>

#include "training/group_packing.inl"

namespace tk {
namespace {

template <typename T, int R, int M>
void group_tile(const GroupWeights& weights, const GroupTokens& tokens, int64_t token, int64_t row, const uint8_t* packed, const float* scales,
                T* out, int64_t stride) {
    const int64_t groups = weights.cols / weights.group, steps = weights.group / 4, block = weights.cols / 4 * kStepBytes;
    __m512 totals[R][M];
    unrolled<R>([&](auto r) TK_INLINED { unrolled<M>([&](auto m) TK_INLINED { totals[r.value][m.value] = _mm512_setzero_ps(); }); });
    const int8_t* x = tokens.codes + token * weights.cols;
    for (int64_t g = 0; g < groups; ++g) {
        __m512i sums[R][M];
        unrolled<M>([&](auto m) TK_INLINED {
            const __m512i start = _mm512_set1_epi32(-128 * tokens.group_sums[(token + m.value) * groups + g]);
            unrolled<R>([&](auto r) TK_INLINED { sums[r.value][m.value] = start; });
        });
        for (int64_t step = g * steps; step < (g + 1) * steps; ++step) {
            __m512i w[R];
            unrolled<R>([&](auto r) TK_INLINED { w[r.value] = _mm512_loadu_si512(packed + r.value * block + step * kStepBytes); });
            unrolled<M>([&](auto m) TK_INLINED {
                int32_t four;
                std::memcpy(&four, x + m.value * weights.cols + 4 * step, 4);
                const __m512i inputs = _mm512_set1_epi32(four);
                unrolled<R>([&](auto r) TK_INLINED { sums[r.value][m.value] = _mm512_dpbusd_epi32(sums[r.value][m.value], w[r.value], inputs); });
            });
        }
        unrolled<R>([&](auto r) TK_INLINED {
            const __m512 scale = _mm512_loadu_ps(scales + (r.value * groups + g) * 16);
            unrolled<M>([&](auto m) TK_INLINED {
                totals[r.value][m.value] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r.value][m.value]), scale, totals[r.value][m.value]);
            });
        });
    }
    unrolled<M>([&](auto m) TK_INLINED {
        const __m512 inverse = _mm512_set1_ps(tokens.inverse_scales[token + m.value]);
        unrolled<R>([&](auto r) TK_INLINED {
            const int64_t start = row + 16 * r.value;
            const Vec values = (Vec)_mm512_div_ps(totals[r.value][m.value], inverse);
            T* to = out + (token + m.value) * stride + start;
            if (start + 16 <= weights.rows) put(to, values, Whole{});
            else if (start < weights.rows) put(to, values, First{weights.rows - start});
        });
    });
}

template <typename T>
void group_product(const GroupWeights& weights, const GroupTokens& tokens, int64_t first, int64_t last, uint8_t* scratch, T* out,
                   int64_t stride) {
    const int64_t groups = weights.cols / weights.group, block = weights.cols / 4 * kStepBytes, blocks = ceil_div(last - first, 16);
    float* scales = reinterpret_cast<float*>(scratch + blocks * block);
    for (int64_t b = 0; b < blocks; ++b) {
        pack_rows<128>(weights, first + 16 * b, scratch + b * block);
        pack_scales(weights, first + 16 * b, scales + b * groups * 16);
    }
    // All tokens for one pair of row blocks, which stays in the cache meanwhile.
    const auto tokens_of = [&](int64_t b, auto rows) {
        const auto tile = [&](int64_t token, auto count) {
            group_tile<T, rows.value, count.value>(weights, tokens, token, first + 16 * b, scratch + b * block, scales + b * groups * 16, out,
                                                   stride);
        };
        int64_t token = 0;
        for (; token + kGroupTokens <= tokens.tokens; token += kGroupTokens) tile(token, Int<kGroupTokens>{});
        for (; token < tokens.tokens; ++token) tile(token, Int<1>{});
    };
    int64_t b = 0;
    for (; b + 2 <= blocks; b += 2) tokens_of(b, Int<2>{});
    if (b < blocks) tokens_of(b, Int<1>{});
}

}  // namespace
}  // namespace tk
