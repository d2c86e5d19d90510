// Short float vectors for the kernels that the compiler can vectorise (GCC/Clang vector extensions). The width is that of
// the instruction set that the including file is compiled for.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "common.h"
#include "matrix.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tk {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t VecInt __attribute__((vector_size(kWidth * 4)));
typedef int8_t VecByte __attribute__((vector_size(kWidth)));
typedef uint8_t VecUByte __attribute__((vector_size(kWidth)));
typedef int16_t VecPairs __attribute__((vector_size(kWidth * 4)));

inline Vec load(const float* x) {
    Vec v;
    std::memcpy(&v, x, sizeof v);
    return v;
}
inline void store(float* x, Vec v) { std::memcpy(x, &v, sizeof v); }
inline Vec splat(float x) { return x - Vec{}; }  // as it is: x + 0 would be an addition, for the sake of -0

inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

inline Vec sqrt(Vec a) {  // rounded as IEEE 754 says
#if defined(__AVX512F__)
    return (Vec)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
    return (Vec)_mm256_sqrt_ps((__m256)a);
#elif defined(__aarch64__)
    return (Vec)vsqrtq_f32((float32x4_t)a);
#else
    return Vec{std::sqrt(a[0]), std::sqrt(a[1]), std::sqrt(a[2]), std::sqrt(a[3])};
#endif
}

inline Vec select(VecInt mask, Vec a, Vec b) { return mask ? a : b; }
inline Vec max(Vec a, Vec b) {  // a > b ? a : b, also where one is NaN
#if defined(__AVX512F__)
    return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return select(a > b, a, b);
#endif
}

// Bits without the sign stand in the order of the numbers' sizes, NaN above infinity: what looks for the largest finds a NaN.
constexpr int32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;
inline VecInt magnitudes(Vec a) { return (VecInt)a & kMagnitude; }
inline Vec abs(Vec a) { return (Vec)magnitudes(a); }
inline VecInt max_int(VecInt a, VecInt b) { return a > b ? a : b; }
inline float largest_bits(VecInt v) {
    int32_t most = 0;
    for (int i = 0; i < kWidth; ++i) most = v[i] > most ? v[i] : most;
    float value;
    std::memcpy(&value, &most, 4);
    return value;
}
inline bool is_finite(float x) { return std::fabs(x) <= std::numeric_limits<float>::max(); }

inline float sum(Vec v) {  // halves onto halves: the same order for every width below the first
#if defined(__AVX512F__)
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v), 1));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), upper);
#elif defined(__AVX2__)
    const __m256 eight = (__m256)v;
#endif
#if defined(__AVX2__)
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}
inline int32_t sum(VecInt v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t total = 0;
    for (int i = 0; i < kWidth; ++i) total += v[i];
    return total;
#endif
}
inline float largest(Vec v) {
    float lanes[kWidth];
    store(lanes, v);
    float result = lanes[0];
    for (int i = 1; i < kWidth; ++i) result = lanes[i] > result ? lanes[i] : result;
    return result;
}

// Nearest integer, ties to even, for |x| < 2^22.
inline Vec round_even(Vec x) {
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23
    return (x + magic) - magic;
}

inline VecInt to_int(Vec x) { return __builtin_convertvector(x, VecInt); }
inline Vec to_float(VecInt x) { return __builtin_convertvector(x, Vec); }

// Bytes to int32 and back (the lowest 8 bits). GCC 12 takes such vectors apart number by number, where
// __builtin_convertvector is all that it is told.
#if defined(__AVX512F__)
inline VecInt widened(VecByte bytes) { return (VecInt)_mm512_cvtepi8_epi32((__m128i)bytes); }
inline VecInt widened(VecUByte bytes) { return (VecInt)_mm512_cvtepu8_epi32((__m128i)bytes); }
inline VecByte narrowed(VecInt x) { return (VecByte)_mm512_cvtepi32_epi8((__m512i)x); }
#elif defined(__AVX2__)
inline VecInt widened(VecByte bytes) { return (VecInt)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&bytes))); }
inline VecInt widened(VecUByte bytes) { return (VecInt)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&bytes))); }
inline VecByte narrowed(VecInt x) {
    const __m256i lowest = _mm256_set1_epi32(0x0c080400);
    const __m256i picked = _mm256_shuffle_epi8((__m256i)x, lowest);
    VecByte bytes;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(&bytes), _mm_unpacklo_epi32(_mm256_castsi256_si128(picked), _mm256_extracti128_si256(picked, 1)));
    return bytes;
}
#else
inline VecInt widened(VecByte bytes) { return __builtin_convertvector(bytes, VecInt); }
inline VecInt widened(VecUByte bytes) { return __builtin_convertvector(bytes, VecInt); }
inline VecByte narrowed(VecInt x) { return __builtin_convertvector(x, VecByte); }
#endif

inline VecPairs widened_pairs(const int8_t* x) {
#if defined(__AVX512BW__)
    return (VecPairs)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
#elif defined(__AVX2__)
    return (VecPairs)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
#else
    typedef int8_t Bytes __attribute__((vector_size(kWidth * 2)));
    Bytes bytes;
    std::memcpy(&bytes, x, sizeof bytes);
    return __builtin_convertvector(bytes, VecPairs);
#endif
}

// Numbers of at most 16 bits.
inline void store_narrowed(int16_t* x, VecInt v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), _mm512_cvtepi32_epi16((__m512i)v));
#elif defined(__AVX2__)
    const __m256i packed = _mm256_packs_epi32((__m256i)v, (__m256i)v);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(x), _mm_unpacklo_epi64(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)));
#else
    for (int i = 0; i < kWidth; ++i) x[i] = static_cast<int16_t>(v[i]);
#endif
}

// sum + a * b, two neighbouring products to a lane.
inline VecInt add_products(VecInt sum, VecPairs a, VecPairs b) {
#if defined(__AVX512VNNI__)
    return (VecInt)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sum + (VecInt)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    const VecInt x = (VecInt)a, y = (VecInt)b;
    return sum + (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

// e^x with a relative error below 2e-7 for -87 <= x <= 88; other arguments give nothing of use. 2^n * p(r), |r| <= ln(2) / 2.
inline Vec exp_in_range(Vec x) {
    const Vec n = round_even(x * 1.44269504f);
    Vec r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Vec p = splat(1.0f / 5040);
    p = fma(p, r, splat(1.0f / 720));
    p = fma(p, r, splat(1.0f / 120));
    p = fma(p, r, splat(1.0f / 24));
    p = fma(p, r, splat(1.0f / 6));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r, splat(1.0f));
    p = fma(p, r, splat(1.0f));
    return p * (Vec)((to_int(n) + 127) << 23);
}

// As above, arguments clamped to the range.
inline Vec exp(Vec x) {
    x = max(x, splat(-87.0f));
    return exp_in_range(-max(-x, splat(-88.0f)));
}

inline Vec load_half(const uint16_t* x) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
#elif defined(__F16C__)
    return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
#elif defined(__aarch64__)
    return (Vec)vcvt_f32_f16(vld1_f16(reinterpret_cast<const __fp16*>(x)));
#else
    return Vec{half_to_float(x[0]), half_to_float(x[1]), half_to_float(x[2]), half_to_float(x[3])};
#endif
}

inline void store_half(uint16_t* x, Vec v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(x), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    vst1_f16(reinterpret_cast<__fp16*>(x), vcvt_f16_f32((float32x4_t)v));
#else
    for (int i = 0; i < kWidth; ++i) x[i] = float_to_half(v[i]);
#endif
}

}  // namespace
}  // namespace tk
