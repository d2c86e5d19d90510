#pragma once

// Rows of float32 or bfloat16 in vectors (vec.h): whole ones and the rest at a row's end, rounding, chance.

#include <cstring>

#include "training/rows.h"
#include "vec.h"

namespace tk {
namespace {

typedef uint32_t VecUint __attribute__((vector_size(kWidth * 4)));
typedef uint16_t VecShort __attribute__((vector_size(kWidth * 2)));

TK_INLINE Vec load(const Bf16* x) {
    VecShort bits;
    std::memcpy(&bits, x, sizeof bits);
    return (Vec)(__builtin_convertvector(bits, VecUint) << 16);
}
TK_INLINE VecUint half_bits(Vec v) {  // of bfloat16, nearest even; a NaN stays one
    const VecUint bits = (VecUint)v;
    const VecUint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return ((VecInt)bits & kMagnitude) > kInfinity ? VecUint{} + 0x7fc0 : rounded;
}
TK_INLINE void store(Bf16* out, Vec v) {
    const auto halves = __builtin_convertvector(half_bits(v), VecShort);
    std::memcpy(out, &halves, sizeof halves);
}

// A whole vector, or the first lanes of one at a row's end; the others read as 0.
struct Whole {};
struct First {
    int64_t lanes;
};
TK_INLINE int64_t lanes_of(Whole) { return kWidth; }
TK_INLINE int64_t lanes_of(First part) { return part.lanes; }
template <typename T>
TK_INLINE Vec get(const T* x, Whole) {
    return load(x);
}
template <typename T>
TK_INLINE Vec get(const T* x, First part) {
    T lanes[kWidth] = {};
    std::memcpy(lanes, x, part.lanes * sizeof(T));
    return load(lanes);
}
template <typename T>
TK_INLINE void put(T* out, Vec v, Whole) {
    store(out, v);
}
template <typename T>
TK_INLINE void put(T* out, Vec v, First part) {
    T lanes[kWidth];
    store(lanes, v);
    std::memcpy(out, lanes, part.lanes * sizeof(T));
}
TK_INLINE void put_bytes(int8_t* out, VecInt v, Whole) {
    const auto bytes = narrowed(v);
    std::memcpy(out, &bytes, sizeof bytes);
}
TK_INLINE void put_bytes(int8_t* out, VecInt v, First part) {
    const auto bytes = narrowed(v);
    std::memcpy(out, &bytes, part.lanes);
}
TK_INLINE VecInt get_ints(const int32_t* x, Whole) {
    VecInt v;
    std::memcpy(&v, x, sizeof v);
    return v;
}
TK_INLINE VecInt get_ints(const int32_t* x, First part) {
    VecInt v{};
    std::memcpy(&v, x, part.lanes * 4);
    return v;
}

template <typename Body>
TK_INLINE void over_row(int64_t size, const Body& body) {
    int64_t i = 0;
    for (; i + kWidth <= size; i += kWidth) body(i, Whole{});
    if (i < size) body(i, First{size - i});
}

alignas(64) constexpr int32_t kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
TK_INLINE VecInt lane_numbers() { return get_ints(kLaneNumbers, Whole{}); }

// The lanes that a row has, else those of `beyond`.
TK_INLINE Vec only(Vec v, Vec, Whole) { return v; }
TK_INLINE Vec only(Vec v, Vec beyond, First part) { return select(lane_numbers() < static_cast<int32_t>(part.lanes), v, beyond); }

// 32 random bits: a hash of the element's number (Wellons, "lowbias32").
TK_INLINE VecUint random_bits(uint32_t seed, int64_t index) {
    VecUint h = (VecUint)lane_numbers() + static_cast<uint32_t>(index);
    h = h * 0x9e3779b1u + seed;
    h ^= h >> 16;
    h *= 0x7feb352du;
    h ^= h >> 15;
    h *= 0x846ca68bu;
    h ^= h >> 16;
    return h;
}

// Uniform in [0, 1), of 24 bits.
TK_INLINE Vec uniform(uint32_t seed, int64_t index) { return to_float((VecInt)(random_bits(seed, index) >> 8)) * 0x1p-24f; }

TK_INLINE VecInt rounded(Vec v, Noise noise, int64_t index) {
    if (!noise.on) return to_int(round_even(v));
    const Vec moved = v + uniform(noise.seed, index);
    VecInt down = to_int(moved);
    down += to_float(down) > moved;  // a comparison's true is -1
    return down < -127 ? VecInt{} - 127 : down > 127 ? VecInt{} + 127 : down;
}

}  // namespace
}  // namespace tk
