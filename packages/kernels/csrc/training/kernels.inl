#pragma once

// Rows of training kernels in float32 arithmetic on short vectors (vec.h). Included by every isa_*.cpp.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "training/lanes.inl"

namespace tk {
namespace {

template <typename T>
float quantize_row(const T* x, int64_t size, float smallest, Noise noise, int8_t* codes) {
    VecInt most{};
    over_row(size, [&](int64_t i, auto part) TK_INLINED { most = max_int(most, (VecInt)get(x + i, part) & kMagnitude); });
    const float peak = largest_bits(most);
    if (!(peak <= std::numeric_limits<float>::max())) return 0;
    const float inverse = 1.0f / std::fmax(peak, smallest) * 127.0f;  // as PyTorch divides a number by a tensor
    const auto write = [&](Noise kind) TK_INLINED {
        over_row(size, [&](int64_t i, auto part) TK_INLINED { put_bytes(codes + i, rounded(get(x + i, part) * inverse, kind, i), part); });
    };
    if (noise.on) write(noise);
    else write({0, false});
    return inverse;
}

// Sixteen rows of a vector of columns, so that each column's codes are written sixteen at once.
template <typename T, typename Part>
TK_INLINE void quantize_block(const T* x, int64_t first, int64_t rows, int64_t total_rows, int64_t stride, const float* factors, Vec inverse,
                              Noise noise, int64_t column, Part part, int8_t* codes) {
    alignas(64) int32_t words[4][kWidth] = {};
    for (int64_t r = 0; r < rows; ++r) {
        const Vec scaled = get(x + (first + r) * stride, part) * (factors ? factors[first + r] : 1.0f);
        const VecInt values = rounded(scaled * inverse, noise, (first + r) * 65536 + column) & 255;
        VecInt word;
        std::memcpy(&word, words[r / 4], sizeof word);
        word |= values << static_cast<int>(8 * (r % 4));
        std::memcpy(words[r / 4], &word, sizeof word);
    }
    for (int64_t lane = 0; lane < lanes_of(part); ++lane) {
        const int32_t of_column[4] = {words[0][lane], words[1][lane], words[2][lane], words[3][lane]};
        std::memcpy(codes + lane * total_rows + first, of_column, rows);
    }
}

template <typename T>
bool quantize_columns(const T* x, int64_t rows, int64_t stride, int64_t size, const float* factors, float smallest, Noise noise,
                      int8_t* codes, float* inverse) {
    alignas(64) float peaks[kStrip];
    bool finite = true;
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        VecInt most{};
        for (int64_t r = 0; r < rows; ++r)
            most = max_int(most, (VecInt)(get(x + r * stride + i, part) * (factors ? factors[r] : 1.0f)) & kMagnitude);
        finite = finite && largest_bits(most) <= std::numeric_limits<float>::max();
        put(peaks + i, 1.0f / max((Vec)most, splat(smallest)) * 127.0f, part);
    });
    if (!finite) return false;
    std::memcpy(inverse, peaks, size * sizeof(float));
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        for (int64_t first = 0; first < rows; first += 16)
            quantize_block(x + i, first, std::min<int64_t>(16, rows - first), rows, stride, factors, get(peaks + i, part), noise, i, part,
                           codes + i * rows);
    });
    return true;
}

template <typename T>
void scale_sums(const int32_t* sums, int64_t size, float row, const float* columns, T* out) {
    if (columns)
        over_row(size, [&](int64_t i, auto part) TK_INLINED { put(out + i, to_float(get_ints(sums + i, part)) * row * get(columns + i, part), part); });
    else
        over_row(size, [&](int64_t i, auto part) TK_INLINED { put(out + i, to_float(get_ints(sums + i, part)) * row, part); });
}

double sum_magnitudes(const float* w, int64_t size) {
    constexpr int kSums = 16;
    double sums[kSums] = {};
    int64_t i = 0;
    for (; i + kSums <= size; i += kSums)
        for (int lane = 0; lane < kSums; ++lane) sums[lane] += std::fabs(static_cast<double>(w[i + lane]));
    for (; i < size; ++i) sums[0] += std::fabs(static_cast<double>(w[i]));
    for (int half = kSums / 2; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    return sums[0];
}

void ternary_codes(const float* w, int64_t size, float inverse, int8_t* codes) {
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec clipped = max(-max(-(get(w + i, part) * inverse), splat(-1.0f)), splat(-1.0f));
        put_bytes(codes + i, to_int(round_even(clipped)), part);
    });
}

void group_sums(const int8_t* codes, int64_t size, int64_t group, int32_t* sums) {
    for (int64_t g = 0; g < size / group; ++g) {
        int32_t total = 0;
        for (int64_t i = g * group; i < (g + 1) * group; ++i) total += codes[i];
        sums[g] = total;
    }
}

void multiply_codes(const int8_t* codes, int64_t size, int32_t multiple, int8_t* out) {
    for (int64_t i = 0; i < size; ++i) out[i] = static_cast<int8_t>(codes[i] * multiple);
}

template <typename T>
float norm_row(const T* x, const float* weight, int64_t size, float eps, T* out) {
    Vec squares{};
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec v = get(x + i, part);
        squares = fma(v, v, squares);
    });
    const float factor = 1.0f / std::sqrt(sum(squares) / static_cast<float>(size) + eps);
    over_row(size, [&](int64_t i, auto part) TK_INLINED { put(out + i, get(weight + i, part) * (get(x + i, part) * factor), part); });
    return factor;
}

template <typename T>
void norm_backward(const T* grad, const T* x, const float* weight, int64_t size, float factor, T* grad_x, float* grad_weight) {
    Vec dot{};
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec g = get(grad + i, part), normed = get(x + i, part) * factor;
        dot = fma(g * get(weight + i, part), normed, dot);
        put(grad_weight + i, fma(g, normed, get(grad_weight + i, part)), part);
    });
    const float along = sum(dot) / static_cast<float>(size);
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec normed = get(x + i, part) * factor;
        put(grad_x + i, (get(grad + i, part) * get(weight + i, part) - normed * along) * factor, part);
    });
}

TK_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

template <typename T>
void swiglu_row(const T* gate, const T* up, int64_t size, T* out) {
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec g = get(gate + i, part);
        put(out + i, g * sigmoid(g) * get(up + i, part), part);
    });
}

template <typename T>
void swiglu_backward(const T* grad, const T* gate, const T* up, int64_t size, T* grad_gate, T* grad_up) {
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec d = get(grad + i, part), g = get(gate + i, part), share = sigmoid(g);
        const Vec derivative = share * (1.0f + g * (1.0f - share));
        put(grad_gate + i, d * get(up + i, part) * derivative, part);
        put(grad_up + i, d * g * share, part);
    });
}

// Sum of exp(logits - most), which are put into `terms`: float32 within short runs, float64 across them.
template <typename T>
double sum_exp(const T* logits, int64_t size, float most, float* terms) {
    constexpr int64_t kRun = 64 * kWidth;
    double total = 0;
    for (int64_t start = 0; start < size; start += kRun) {
        Vec run{};
        over_row(std::min(kRun, size - start), [&](int64_t i, auto part) TK_INLINED {
            const Vec term = exp(get(logits + start + i, part) - most);
            put(terms + start + i, term, part);
            run += only(term, Vec{}, part);
        });
        total += sum(run);
    }
    return total;
}

// The largest of a row, NaN where one is no number.
template <typename T>
float peak_of(const T* logits, int64_t size) {
    Vec tops = splat(-std::numeric_limits<float>::infinity());
    Vec poison{};  // NaN or 0
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Vec v = get(logits + i, part);
        poison += v * 0.0f;
        tops = max(tops, only(v, tops, part));
    });
    return sum(poison) != 0 ? std::numeric_limits<float>::quiet_NaN() : largest(tops);
}

template <typename T>
double cross_entropy_row(T* logits, int64_t size, int64_t label, float grad_factor, float* scratch) {
    const float most = peak_of(logits, size);
    if (std::isnan(most)) return most;
    const double total = sum_exp(logits, size, most, scratch);
    const float of_label = get(logits + label, First{1})[0];
    const double loss = std::log(total) + most - of_label;
    if (grad_factor == 0) return loss;
    const float factor = static_cast<float>(grad_factor / total);
    over_row(size, [&](int64_t i, auto part) TK_INLINED { put(logits + i, get(scratch + i, part) * factor, part); });
    const float share = std::exp(of_label - most) * factor;
    put(logits + label, splat(share - grad_factor), First{1});
    return loss;
}

template <typename T>
double divergence_row(T* logits, const T* expected, int64_t size, float grad_factor, float* scratch) {
    const float most = peak_of(logits, size), most_expected = peak_of(expected, size);
    if (std::isnan(most) || std::isnan(most_expected)) return std::numeric_limits<double>::quiet_NaN();
    const float *terms = scratch, *terms_expected = scratch + size;
    const double total = sum_exp(logits, size, most, scratch), total_expected = sum_exp(expected, size, most_expected, scratch + size);
    const float share = static_cast<float>(1 / total), share_expected = static_cast<float>(1 / total_expected);
    // sum of p (log p - log q), where log p - log q = (expected - most_expected) - (logits - most) + log(total / total_expected)
    double mean = 0;
    constexpr int64_t kRun = 64 * kWidth;
    for (int64_t start = 0; start < size; start += kRun) {
        Vec run{};
        over_row(std::min(kRun, size - start), [&](int64_t offset, auto part) TK_INLINED {
            const int64_t i = start + offset;
            const Vec left = get(expected + i, part) - most_expected, right = get(logits + i, part) - most;
            const Vec p = get(terms_expected + i, part) * share_expected;
            run += only(p * (left - right), Vec{}, part);
            if (grad_factor != 0) put(logits + i, (get(terms + i, part) * share - p) * grad_factor, part);
        });
        mean += sum(run);
    }
    return mean + std::log(total / total_expected);
}

// True (-1) where a byte is not 0; without bytes, everywhere.
TK_INLINE VecInt allowed_lanes(const uint8_t* allowed, Whole) {
    if (!allowed) return VecInt{} - 1;
    VecUByte bytes;
    std::memcpy(&bytes, allowed, sizeof bytes);
    return widened(bytes) != 0;
}
TK_INLINE VecInt allowed_lanes(const uint8_t* allowed, First part) {
    const VecInt inside = lane_numbers() < static_cast<int32_t>(part.lanes);
    if (!allowed) return inside;
    VecUByte bytes{};
    std::memcpy(&bytes, allowed, part.lanes);
    return inside & (widened(bytes) != 0);
}

template <typename T>
void softmax_row(T* scores, const uint8_t* allowed, int64_t size, int64_t visible, float scale, float* scratch) {
    const Vec lowest = splat(-std::numeric_limits<float>::infinity());
    const auto lanes_at = [&](int64_t i, auto part) TK_INLINED { return allowed_lanes(allowed ? allowed + i : nullptr, part); };
    Vec tops = lowest;
    over_row(visible, [&](int64_t i, auto part) TK_INLINED { tops = max(tops, select(lanes_at(i, part), get(scores + i, part) * scale, lowest)); });
    const float most = largest(tops);
    std::memset(static_cast<void*>(scores + visible), 0, (size - visible) * sizeof(T));
    if (most == -std::numeric_limits<float>::infinity()) {
        std::memset(static_cast<void*>(scores), 0, visible * sizeof(T));
        return;
    }
    Vec total{};
    over_row(visible, [&](int64_t i, auto part) TK_INLINED {
        const Vec term = select(lanes_at(i, part), exp(get(scores + i, part) * scale - most), Vec{});
        put(scratch + i, term, part);
        total += term;
    });
    const float share = 1.0f / sum(total);
    over_row(visible, [&](int64_t i, auto part) TK_INLINED { put(scores + i, get(scratch + i, part) * share, part); });
}

template <typename T>
void softmax_backward(const T* shares, T* grad, int64_t size, int64_t visible, float scale) {
    Vec dot{};
    over_row(visible, [&](int64_t i, auto part) TK_INLINED { dot = fma(get(shares + i, part), get(grad + i, part), dot); });
    const float mean = sum(dot);
    over_row(visible, [&](int64_t i, auto part) TK_INLINED { put(grad + i, get(shares + i, part) * (get(grad + i, part) - mean) * scale, part); });
    std::memset(static_cast<void*>(grad + visible), 0, (size - visible) * sizeof(T));
}

}  // namespace
}  // namespace tk
