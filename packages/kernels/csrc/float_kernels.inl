// Norms, rotary embedding, gates and quantization of activations in float32, on short vectors (vec.h).
// Each result depends on its own inputs alone, in a fixed order: batching changes nothing, to the bit.

#include <cmath>

#include "kernels.h"
#include "vec.h"

namespace tk {
namespace {

constexpr float kNoNumber = std::numeric_limits<float>::quiet_NaN();

// Applies vector(i) to whole vectors and one(i) to the rest.
template <typename Whole, typename One>
inline void over(int64_t size, const Whole& vector, const One& one) {
    int64_t i = 0;
    for (; i + kWidth <= size; i += kWidth) vector(i);
    for (; i < size; ++i) one(i);
}

// NaN where there is one.
float max_abs(const float* x, int64_t size) {
    VecInt most{};
    over(size, [&](int64_t i) { most = max_int(most, magnitudes(load(x + i))); }, [&](int64_t i) { most = max_int(most, magnitudes(splat(x[i]))); });
    return largest_bits(most);
}

constexpr int kVecsOf16 = 16 / kWidth;

// Writes 16 codes of one token into its panel, one step every `tokens` words; gives their sum.
inline int32_t write_codes(const VecInt (&values)[kVecsOf16], uint32_t* codes, int64_t tokens) {
    alignas(16) int8_t lanes[16];
    VecInt total{};
    for (int v = 0; v < kVecsOf16; ++v) {
        const auto bytes = narrowed(values[v]);
        std::memcpy(lanes + v * kWidth, &bytes, sizeof bytes);
        total += values[v];
    }
    if (tokens == 1) std::memcpy(codes, lanes, 16);
    else
        for (int i = 0; i < 4; ++i) std::memcpy(codes + i * tokens, lanes + 4 * i, 4);
    return sum(total);
}

// Calls body(first input, nearest integers of x * factor) for each 16 inputs; zeros beyond `size`.
template <typename Body>
inline void over_16(const float* x, int64_t size, int64_t padded, float factor, const Body& body) {
    for (int64_t base = 0; base < padded; base += 16) {
        float rest[16] = {};
        if (base + 16 > size && base < size) std::memcpy(rest, x + base, (size - base) * sizeof(float));
        const float* source = base + 16 > size ? rest : x + base;
        VecInt values[kVecsOf16];
        for (int v = 0; v < kVecsOf16; ++v) values[v] = to_int(round_even(load(source + v * kWidth) * factor));
        body(base, values);
    }
}

float quantize(const float* x, int64_t size, int64_t padded, uint32_t* codes, int64_t tokens, int32_t* sums16) {
    const float most = max_abs(x, size), inverse = 127.0f / std::fmax(most, kMinScale);  // no clip needed: |x * inverse| rounds to at most 127
    over_16(x, is_finite(most) ? size : 0, padded, inverse, [&](int64_t base, const VecInt (&values)[kVecsOf16]) {
        sums16[base / 16] = write_codes(values, codes + base / kStep * tokens, tokens);
    });
    return is_finite(most) ? inverse : kNoNumber;
}

float quantize_wide(const float* x, int64_t size, int64_t padded, uint32_t* high, uint32_t* low, int64_t tokens, int32_t* high_sums16,
                    int32_t* low_sums16) {
    constexpr float kLargest = 127 * 256;
    const float largest_size = max_abs(x, size), most = std::fmax(largest_size, kMinScale);
    over_16(x, is_finite(largest_size) ? size : 0, padded, kLargest / most, [&](int64_t base, const VecInt (&values)[kVecsOf16]) {
        VecInt highs[kVecsOf16], lows[kVecsOf16];
        for (int v = 0; v < kVecsOf16; ++v) {
            highs[v] = (values[v] + 128) >> 8;
            lows[v] = values[v] - highs[v] * 256;
        }
        high_sums16[base / 16] = write_codes(highs, high + base / kStep * tokens, tokens);
        low_sums16[base / 16] = write_codes(lows, low + base / kStep * tokens, tokens);
    });
    return is_finite(largest_size) ? most / kLargest : kNoNumber;
}

void rms_norm(const float* x, const float* weight, int64_t size, float eps, float* out) {
    Vec squares{};
    float rest = 0;
    over(size, [&](int64_t i) { squares = fma(load(x + i), load(x + i), squares); }, [&](int64_t i) { rest += x[i] * x[i]; });
    const float mean = (sum(squares) + rest) / static_cast<float>(size);
    const float factor = is_finite(mean) ? 1.0f / std::sqrt(mean + eps) : kNoNumber;  // or squares beyond float32 would make zeros of all
    over(size, [&](int64_t i) { store(out + i, load(weight + i) * (load(x + i) * factor)); }, [&](int64_t i) { out[i] = weight[i] * (x[i] * factor); });
}

void rope(float* head, const float* cos, const float* sin, int64_t size) {
    const int64_t half = size / 2;
    const auto one = [&](int64_t i) {
        const float a = head[i], b = head[half + i];
        head[i] = a * cos[i] - b * sin[i];
        head[half + i] = b * cos[i] + a * sin[i];
    };
    over(half,
         [&](int64_t i) {
             const Vec a = load(head + i), b = load(head + half + i), c = load(cos + i), s = load(sin + i);
             store(head + i, a * c - b * s);
             store(head + half + i, b * c + a * s);
         },
         one);
}

template <typename Activation>
inline void gated(const float* gate, const float* up, int64_t size, float* out, const Activation& activation) {
    over(size, [&](int64_t i) { store(out + i, activation(load(gate + i)) * load(up + i)); },
         [&](int64_t i) { out[i] = activation(splat(gate[i]))[0] * up[i]; });
}
void silu_gate(const float* gate, const float* up, int64_t size, float* out) {
    gated(gate, up, size, out, [](Vec x) { return x / (1.0f + exp(-x)); });
}
// GELU by its tanh formula: (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)).
void gelu_tanh_gate(const float* gate, const float* up, int64_t size, float* out) {
    gated(gate, up, size, out, [](Vec x) { return x / (1.0f + exp(-1.5957691216f * (x + 0.044715f * x * x * x))); });
}
void relu2_gate(const float* gate, const float* up, int64_t size, float* out) {
    gated(gate, up, size, out, [](Vec x) { return max(Vec{}, x) * max(Vec{}, x); });
}

void add(float* x, const float* y, int64_t size) {
    over(size, [&](int64_t i) { store(x + i, load(x + i) + load(y + i)); }, [&](int64_t i) { x[i] += y[i]; });
}

void to_half(const float* x, int64_t size, uint16_t* out) {
    constexpr float kMost = 65504;  // max gives its second argument where one is NaN
    const auto clipped = [](Vec v) { return -max(splat(-kMost), -max(splat(-kMost), v)); };
    over(size, [&](int64_t i) { store_half(out + i, clipped(load(x + i))); }, [&](int64_t i) { out[i] = float_to_half(clipped(splat(x[i]))[0]); });
}

// Calls body(Int<R>, row) for tiles of 8, 4, 2 and 1 rows.
template <typename Body>
inline void over_rows(int64_t rows, const Body& body) {
    int64_t row = 0;
    for (; row + 8 <= rows; row += 8) body(std::integral_constant<int, 8>{}, row);
    if (row + 4 <= rows) body(std::integral_constant<int, 4>{}, row), row += 4;
    if (row + 2 <= rows) body(std::integral_constant<int, 2>{}, row), row += 2;
    if (row < rows) body(std::integral_constant<int, 1>{}, row);
}

// Rows share the loads of x; each has its own sum, so that the tile changes nothing, to the bit.
void project(const float* x, const float* rows, int64_t count, int64_t size, float* out) {
    over_rows(count, [&](auto R, int64_t row) {
        const float* first = rows + row * size;
        Vec sums[R.value] = {};
        float rest[R.value] = {};
        over(
            size,
            [&](int64_t i) {
                const Vec value = load(x + i);
                for (int r = 0; r < R.value; ++r) sums[r] = fma(value, load(first + r * size + i), sums[r]);
            },
            [&](int64_t i) {
                for (int r = 0; r < R.value; ++r) rest[r] += x[i] * first[r * size + i];
            });
        for (int r = 0; r < R.value; ++r) out[row + r] = sum(sums[r]) + rest[r];
    });
}

void combine(const float* factors, const float* rows, int64_t count, int64_t stride, int64_t size, float* out) {
    constexpr int kVecs = 4;
    int64_t i = 0;
    for (; i + kVecs * kWidth <= size; i += kVecs * kWidth) {
        Vec sums[kVecs];
        for (int v = 0; v < kVecs; ++v) sums[v] = load(out + i + v * kWidth);
        for (int64_t r = 0; r < count; ++r)
            for (int v = 0; v < kVecs; ++v) sums[v] = fma(splat(factors[r]), load(rows + r * stride + i + v * kWidth), sums[v]);
        for (int v = 0; v < kVecs; ++v) store(out + i + v * kWidth, sums[v]);
    }
    for (; i < size; ++i)
        for (int64_t r = 0; r < count; ++r) out[i] += factors[r] * rows[r * stride + i];
}

}  // namespace
}  // namespace tk
