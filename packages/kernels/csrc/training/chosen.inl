// Weights whose codes and scales are chosen apart: rounding of latent weights to given scales with its gradients, and the
// two sweeps over the inputs of a matrix that choose codes. Matrices of the sweeps are transposed, an input is a row; every
// column, which is an output of the layer, is by itself.

#include "training/kernels.inl"

namespace tk {
namespace {

TK_INLINE Vec ternary(Vec ratio) {
    const Vec clipped = max(-max(-ratio, splat(-1.0f)), splat(-1.0f));
    return round_even(clipped);
}

void latent_codes(const float* latent, int64_t size, float scale, int8_t* codes) {
    over_row(size, [&](int64_t i, auto part) TK_INLINED { put_bytes(codes + i, to_int(ternary(get(latent + i, part) / scale)), part); });
}

float latent_gradients(const float* latent, int64_t size, float scale, float* grad) {
    Vec total{};
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec ratio = get(latent + i, part) / scale, g = get(grad + i, part), code = ternary(ratio), far = abs(ratio);
        total = fma(g, select(far <= 1.0f, code - ratio, code), total);
        put(grad + i, select(far <= 1.5f, g, Vec{}), part);
    });
    return sum(total);
}

float code_gradient(const int8_t* codes, int64_t size, const float* grad) {
    float total = 0;
    int64_t i = 0;
    Vec totals{};
    for (; i + kWidth <= size; i += kWidth) {
        VecByte bytes;
        std::memcpy(&bytes, codes + i, sizeof bytes);
        totals = fma(load(grad + i), to_float(widened(bytes)), totals);
    }
    for (; i < size; ++i) total += codes[i] * grad[i];
    return total + sum(totals);
}

void compensate(const Sweep& sweep, int64_t first, int64_t last) {
    over_row(last - first, [&](int64_t offset, auto part) TK_INLINED {
        const int64_t column = first + offset;
        const Vec scale = get(sweep.scales + column, part);
        for (int64_t i = 0; i < sweep.size; ++i) {
            const float* factors = sweep.factors + i * sweep.size;
            float* row = sweep.values + i * sweep.cols + column;
            const Vec value = get(row, part), code = ternary(value / scale), error = (value - code * scale) / factors[i];
            put(sweep.codes + i * sweep.cols + column, code, part);
            put(row, error, part);
            for (int64_t j = i + 1; j < sweep.size; ++j) {
                float* later = sweep.values + j * sweep.cols + column;
                put(later, fma(splat(-factors[j]), error, get(later, part)), part);
            }
        }
    });
}

void descend(const Sweep& sweep, int64_t first, int64_t last) {
    over_row(last - first, [&](int64_t offset, auto part) TK_INLINED {
        const int64_t column = first + offset;
        const Vec scale = get(sweep.scales + column, part);
        for (int64_t i = 0; i < sweep.size; ++i) {
            const float* factors = sweep.factors + i * sweep.size;
            float* place = sweep.codes + i * sweep.cols + column;
            const Vec before = get(place, part), gradient = get(sweep.values + i * sweep.cols + column, part);
            const Vec best = ternary(before - gradient / (factors[i] * scale)), moved = (best - before) * scale;
            put(place, best, part);
            for (int64_t j = 0; j < sweep.size; ++j) {
                float* other = sweep.values + j * sweep.cols + column;
                put(other, fma(splat(factors[j]), moved, get(other, part)), part);
            }
        }
    });
}

}  // namespace
}  // namespace tk
