// AdamW in one pass over weight, gradient and moments, which are float32, bfloat16 or 8 bits. Operations are those that
// IEEE 754 rounds in one way, without fused multiply-adds: weights and moments are equal to the bit on every instruction set.
//
// Moments in fewer bits are rounded up or down by chance, so that their means are right: to nearest, a second moment that
// moves by less than half a step an update would never move (1 - beta2 = 0.001 of itself; bfloat16 has steps of 0.004 to 0.008).

#include "training/kernels.inl"

namespace tk {
namespace {

bool is_within(const float* x, int64_t size, float most) {
    VecInt largest_seen{};
    over_row(size, [&](int64_t i, auto part) TK_INLINED { largest_seen = max_int(largest_seen, (VecInt)get(x + i, part) & kMagnitude); });
    return largest_bits(largest_seen) <= most;
}

struct Moments {
    Vec first, second;
};

// The new moments, before they are rounded; `weight` is updated with them.
template <typename Part>
TK_INLINE Moments adamw_lanes(const AdamStep& step, float* weight, Vec grad, const Moments& old, Part part) {
    const Vec first = old.first + (grad - old.first) * step.share1;
    const Vec second = old.second * step.beta2 + grad * grad * step.share2;
    put(weight, get(weight, part) * step.kept - first * step.rate / (sqrt(second) + step.eps), part);
    return {first, second};
}

template <typename Part>
TK_INLINE void put_by_chance(float* out, Vec v, VecUint, Part part) {
    put(out, v, part);
}
template <typename Part>
TK_INLINE void put_by_chance(Bf16* out, Vec v, VecUint noise, Part part) {  // 16 bits of noise
    put(out, (Vec)(((VecUint)v + noise) & 0xffff0000u), part);
}

template <typename T>
void adamw_row(const AdamStep& step, int64_t index, int64_t size, float* weight, const float* grad, T* first, T* second) {
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const Moments now = adamw_lanes(step, weight + i, get(grad + i, part), {get(first + i, part), get(second + i, part)}, part);
        const VecUint noise = random_bits(step.seed, index + i);
        put_by_chance(first + i, now.first, noise & 0xffff, part);
        put_by_chance(second + i, now.second, noise >> 16, part);
    });
}

// A code is a float32 without its lowest 20 bits, counted down from the largest that its block's exponent has: 3 bits of
// the mantissa, and for the first moment a sign and 16 octaves, for the second 32 octaves. 0 is zero.
constexpr int kDropped = 20, kFirstCodes = 127, kSecondCodes = 255;

TK_INLINE int below_codes(int exponent, int num_codes) { return 8 * exponent + 7 - num_codes; }

TK_INLINE Vec decoded(VecInt code, int below) { return (Vec)((max_int(code + below, VecInt{}) << kDropped) & (code != 0)); }
TK_INLINE VecInt encoded(VecInt magnitude, VecUint noise, int below, int least) {  // 16 bits of noise
    const VecInt moved = magnitude + (VecInt)(noise << (kDropped - 16));
    return max_int((moved >> kDropped) - below, VecInt{} + least) & (magnitude != 0);
}

// The smallest exponent that holds all codes up to that of `most`, rounded up.
TK_INLINE int exponent_of(VecInt magnitudes) {
    int32_t most;
    const float value = largest_bits(magnitudes);
    std::memcpy(&most, &value, sizeof most);
    return (most + (1 << kDropped) - 1) >> 23;
}

TK_INLINE VecInt get_codes(const uint8_t* codes, Whole) {
    VecUByte bytes;
    std::memcpy(&bytes, codes, sizeof bytes);
    return widened(bytes);
}
TK_INLINE VecInt get_codes(const uint8_t* codes, First part) {
    VecUByte bytes{};
    std::memcpy(&bytes, codes, part.lanes);
    return widened(bytes);
}
template <typename Part>
TK_INLINE void put_codes(uint8_t* out, VecInt codes, Part part) {
    put_bytes(reinterpret_cast<int8_t*>(out), codes, part);
}

void adamw_block(const AdamStep& step, int64_t index, int64_t size, float* weight, const float* grad, const CodedMoments& moments) {
    alignas(64) float first[kMomentBlock], second[kMomentBlock];
    VecInt most_first{}, most_second{};
    const int old_first = below_codes(*moments.first_exponent, kFirstCodes), old_second = below_codes(*moments.second_exponent, kSecondCodes);
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const VecInt code = get_codes(moments.first + i, part);
        const Vec magnitude = decoded(code & kFirstCodes, old_first);
        const Moments old{(Vec)((VecInt)magnitude | ((code & 128) << 24)), decoded(get_codes(moments.second + i, part), old_second)};
        const Moments now = adamw_lanes(step, weight + i, get(grad + i, part), old, part);
        put(first + i, now.first, part);
        put(second + i, now.second, part);
        most_first = max_int(most_first, (VecInt)now.first & kMagnitude);
        most_second = max_int(most_second, (VecInt)now.second);
    });
    *moments.first_exponent = static_cast<uint8_t>(exponent_of(most_first));
    *moments.second_exponent = static_cast<uint8_t>(exponent_of(most_second));
    const int new_first = below_codes(*moments.first_exponent, kFirstCodes), new_second = below_codes(*moments.second_exponent, kSecondCodes);
    over_row(size, [&](int64_t i, auto part) TK_INLINED {
        const VecUint noise = random_bits(step.seed, index + i);
        const VecInt bits = (VecInt)get(first + i, part);
        const VecInt sign = (VecInt)((VecUint)bits >> 24) & 128;
        put_codes(moments.first + i, encoded(bits & kMagnitude, noise & 0xffff, new_first, 0) | sign, part);
        // At least 1: a second moment that were 0 beside a first one that is not would make the step as large as 1 / eps.
        put_codes(moments.second + i, encoded((VecInt)get(second + i, part), noise >> 16, new_second, 1), part);
    });
}

}  // namespace
}  // namespace tk
