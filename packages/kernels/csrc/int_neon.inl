// Dot products of signed weights with int8 inputs for NEON with the dot product (Armv8.2); the loops are in int_narrow.inl.

#include "int_vectors.inl"

namespace tk {
namespace {

constexpr bool kSignedWeights = true;
constexpr bool kFetchesAhead = false;
constexpr int kOneTokenBlocks = 4;
template <typename Unpack>
constexpr bool kApart = false;

// Sums of H vectors of rows x M tokens; totals: [M][H], read by begin, completed by end. Nothing overflows.
template <int Max, int H, int M>
struct Sums {
    static constexpr int64_t steps = int64_t{1} << 40;
    int32x4_t of[H][M];

    TK_INLINE void begin(const VecInt* totals) {
        unrolled<H>([&](auto h) TK_INLINED {
            unrolled<M>([&](auto m) TK_INLINED { of[h.value][m.value] = (int32x4_t)totals[m.value * H + h.value]; });
        });
    }
    TK_INLINE static int8x16_t input(const uint32_t* x) { return vreinterpretq_s8_u32(vld1q_dup_u32(x)); }
    template <int h, int m>
    TK_INLINE void dot(Bytes weights, int8x16_t inputs) {
        of[h][m] = vdotq_s32(of[h][m], (int8x16_t)weights, inputs);
    }
    TK_INLINE void end(VecInt* totals) const {
        unrolled<H>([&](auto h) TK_INLINED {
            unrolled<M>([&](auto m) TK_INLINED { totals[m.value * H + h.value] = (VecInt)of[h.value][m.value]; });
        });
    }
};

// Codes of 5 bits, one per byte.
struct T5Codes {
    uint8x16_t codes;

    template <int Step>
    TK_INLINE static T5Codes load(const uint8_t* unit, int part) {
        const uint8x16_t raw = vld1q_u8(unit + Step / 2 * 64 + part * 16);
        const uint8x16_t nibbles = Step % 2 ? vshrq_n_u8(raw, 4) : vandq_u8(raw, vdupq_n_u8(15));
        const uint8_t* fifth = unit + 256 + Step * 8 + part * 2;
        const uint8x16_t own_byte = vcombine_u8(vld1_dup_u8(fifth), vld1_dup_u8(fifth + 1));
        const uint8x16_t own_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
        return {vorrq_u8(nibbles, vandq_u8(vtstq_u8(own_byte, own_bit), vdupq_n_u8(16)))};
    }
};

// Weights -1, 0, 1 of plane P, by code.
template <int P>
struct TritBytes {
    alignas(16) uint8_t of[32];
    constexpr TritBytes() : of() {
        for (int i = 0; i < 32; ++i) of[i] = static_cast<uint8_t>(i / (P == 0 ? 1 : P == 1 ? 3 : 9) % 3 - 1);
    }
};
template <int P>
constexpr TritBytes<P> kTrits;

template <int Plane>
TK_INLINE Bytes trits(const T5Codes& codes) {
    const uint8x16x2_t table = {{vld1q_u8(kTrits<Plane>.of), vld1q_u8(kTrits<Plane>.of + 16)}};
    return (Bytes)vqtbl2q_u8(table, codes.codes);
}

// The part of each phase 1, i, -1, -i (0 .. 3) on the real axis, or the imaginary one.
template <int Axis>
TK_INLINE Bytes phase_parts(Bytes phases) {
    const uint8x16_t table = vreinterpretq_u8_u32(vdupq_n_u32(Axis == 0 ? 0x00ff0001 : 0xff000100));
    return (Bytes)vqtbl1q_u8(table, (uint8x16_t)phases);
}

}  // namespace
}  // namespace tk

#include "int_narrow.inl"
