// Dot products of unsigned codes with int8 inputs for AVX2, with and without AVX-VNNI; the loops are in int_narrow.inl.
//
// Without VNNI, vpmaddubsw gives sums of two products in 16 bits. As many steps are added in 16 bits as cannot overflow
// for the largest code (64 steps of ternary codes, 8 of q4, 2 of q6). The products of q8 do not fit: its codes and
// inputs are split into even and odd bytes and multiplied in 16 bits by vpmaddwd.

#include "int_vectors.inl"

namespace tk {
namespace {

constexpr bool kSignedWeights = false;
constexpr bool kFetchesAhead = true;
constexpr int kOneTokenBlocks = 1;

TK_INLINE __m256i broadcast(const uint32_t* x) { return _mm256_set1_epi32(static_cast<int>(*x)); }

// Sums of H vectors of rows x M tokens; Max is the largest code. totals: [M][H], read by begin, completed by end.
// At most `steps` calls of dot for one sum lie between begin and end.
#ifdef __AVXVNNI__
template <int Max, int H, int M>
struct Sums {
    static constexpr int64_t steps = int64_t{1} << 40;
    __m256i of[H][M];

    TK_INLINE void begin(const VecInt* totals) {
        unrolled<H>([&](auto h) TK_INLINED {
            unrolled<M>([&](auto m) TK_INLINED { of[h.value][m.value] = (__m256i)totals[m.value * H + h.value]; });
        });
    }
    TK_INLINE static __m256i input(const uint32_t* x) { return broadcast(x); }
    template <int h, int m>
    TK_INLINE void dot(Bytes weights, __m256i inputs) {
        of[h][m] = _mm256_dpbusd_avx_epi32(of[h][m], (__m256i)weights, inputs);
    }
    TK_INLINE void end(VecInt* totals) const {
        unrolled<H>([&](auto h) TK_INLINED {
            unrolled<M>([&](auto m) TK_INLINED { totals[m.value * H + h.value] = (VecInt)of[h.value][m.value]; });
        });
    }
};
#else
template <int Max, int H, int M>
struct Sums {
    static constexpr int64_t steps = 32768 / (2 * 128 * Max);
    __m256i of[H][M];

    TK_INLINE void begin(const VecInt*) {
        unrolled<H>([&](auto h) TK_INLINED { unrolled<M>([&](auto m) TK_INLINED { of[h.value][m.value] = _mm256_setzero_si256(); }); });
    }
    TK_INLINE static __m256i input(const uint32_t* x) { return broadcast(x); }
    template <int h, int m>
    TK_INLINE void dot(Bytes weights, __m256i inputs) {
        of[h][m] = _mm256_add_epi16(of[h][m], _mm256_maddubs_epi16((__m256i)weights, inputs));
        // Keeps the compiler from adding the products of several unrolled steps first, which needs too many registers.
        if constexpr (M <= 2) asm("" : "+x"(of[h][m]));
    }
    TK_INLINE void end(VecInt* totals) const {
        unrolled<H>([&](auto h) TK_INLINED {
            unrolled<M>([&](auto m) TK_INLINED {
                totals[m.value * H + h.value] += (VecInt)_mm256_madd_epi16(of[h.value][m.value], _mm256_set1_epi16(1));
            });
        });
    }
};

template <int H, int M>
struct Sums<255, H, M> {
    static constexpr int64_t steps = int64_t{1} << 40;
    __m256i of[H][M];

    TK_INLINE void begin(const VecInt* totals) {
        unrolled<H>([&](auto h) TK_INLINED {
            unrolled<M>([&](auto m) TK_INLINED { of[h.value][m.value] = (__m256i)totals[m.value * H + h.value]; });
        });
    }
    struct Input {
        __m256i even, odd;
    };
    TK_INLINE static Input input(const uint32_t* x) {
        const __m256i inputs = broadcast(x);
        return {_mm256_srai_epi16(_mm256_slli_epi16(inputs, 8), 8), _mm256_srai_epi16(inputs, 8)};
    }
    template <int h, int m>
    TK_INLINE void dot(Bytes weights, const Input& inputs) {
        const __m256i even = _mm256_and_si256((__m256i)weights, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16((__m256i)weights, 8);
        of[h][m] = _mm256_add_epi32(of[h][m], _mm256_add_epi32(_mm256_madd_epi16(even, inputs.even), _mm256_madd_epi16(odd, inputs.odd)));
    }
    TK_INLINE void end(VecInt* totals) const {
        unrolled<H>([&](auto h) TK_INLINED {
            unrolled<M>([&](auto m) TK_INLINED { totals[m.value * H + h.value] = (VecInt)of[h.value][m.value]; });
        });
    }
};
#endif

// For a single token weights are multiplied where they lie in their bytes, with a mask in place of a shift and a mask; sums, 4, 16 or
// 64 times too large, are shifted once. Totals: [parts].
#ifdef __AVXVNNI__
template <typename Unpack>
constexpr bool kApart = true;  // also one sum of all steps would wait for itself

template <typename Unpack>
struct StepSums {
    static constexpr int64_t units = int64_t{1} << 40;
    __m256i of[kParts][Unpack::steps];

    TK_INLINE void begin(const VecInt* totals) {
        unrolled<kParts>([&](auto part) TK_INLINED {
            of[part.value][0] = (__m256i)totals[part.value];
            unrolled<Unpack::steps - 1>([&](auto i) TK_INLINED { of[part.value][i.value + 1] = _mm256_setzero_si256(); });
        });
    }
    template <int Step>
    TK_INLINE void add(const uint8_t* unit, const uint32_t* x) {
        const __m256i inputs = broadcast(x);
        unrolled<kParts>([&](auto part) TK_INLINED {
            const Bytes weights = Unpack::template in_place<Step>(unit + part.value * sizeof(Bytes));
            __m256i& sum = of[part.value][Step];
            sum = _mm256_dpbusd_avx_epi32(sum, (__m256i)weights, inputs);
            asm("" : "+x"(sum));  // keeps the compiler from copying sums
        });
    }
    TK_INLINE void end(VecInt* totals) const {
        unrolled<kParts>([&](auto part) TK_INLINED {
            __m256i total = of[part.value][0];
            unrolled<Unpack::steps - 1>([&](auto i) TK_INLINED {
                constexpr int step = i.value + 1;
                total = _mm256_add_epi32(total, _mm256_srai_epi32(of[part.value][step], Unpack::shift * step));
            });
            totals[part.value] = (VecInt)total;
        });
    }
};
#else
template <typename Unpack>
constexpr bool kApart = Unpack::max_code == 2;

// Of t2. In 16 bits four units of the third step, 16 times too large, add up to 4 * 2 * 16 * 2 * -128 = -32768, which just
// fits; the fourth step would not and is shifted, its sum is that of the first.
template <typename Unpack>
struct StepSums {
    static constexpr int64_t units = 4;
    __m256i of[kParts][3];

    TK_INLINE void begin(const VecInt*) {
        unrolled<kParts>([&](auto part) TK_INLINED {
            unrolled<3>([&](auto i) TK_INLINED { of[part.value][i.value] = _mm256_setzero_si256(); });
        });
    }
    template <int Step>
    TK_INLINE void add(const uint8_t* unit, const uint32_t* x) {
        const __m256i inputs = broadcast(x);
        unrolled<kParts>([&](auto part) TK_INLINED {
            const uint8_t* packed = unit + part.value * sizeof(Bytes);
            Bytes weights;
            if constexpr (Step < 3) weights = Unpack::template in_place<Step>(packed);
            else weights = Unpack::template vector<Step>(packed);
            __m256i& sum = of[part.value][Step % 3];
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16((__m256i)weights, inputs));
            asm("" : "+x"(sum));  // as in Sums
        });
    }
    TK_INLINE void end(VecInt* totals) const {
        unrolled<kParts>([&](auto part) TK_INLINED {
            const __m256i second = _mm256_srai_epi16(of[part.value][1], 2), third = _mm256_srai_epi16(of[part.value][2], 4);
            const __m256i total = _mm256_add_epi16(of[part.value][0], _mm256_add_epi16(second, third));
            totals[part.value] += (VecInt)_mm256_madd_epi16(total, _mm256_set1_epi16(1));
        });
    }
};
#endif

// Codes of 5 bits as indices of two shuffles of 16 entries: bit 7 makes a shuffle give zero where the other one counts.
struct T5Codes {
    __m256i low, high;

    template <int Step>
    TK_INLINE static T5Codes load(const uint8_t* unit, int part) {
        const __m256i raw = _mm256_load_si256(reinterpret_cast<const __m256i*>(unit + Step / 2 * 64 + part * 32));
        const __m256i nibbles = _mm256_and_si256(Step % 2 ? _mm256_srli_epi16(raw, 4) : raw, _mm256_set1_epi8(15));
        const __m256i own_byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                                  2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
        const __m256i own_bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
        int fifth;
        std::memcpy(&fifth, unit + 256 + Step * 8 + part * 4, 4);
        const __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(fifth), own_byte), own_bit);
        return {_mm256_or_si256(nibbles, _mm256_cmpeq_epi8(bits, own_bit)),
                _mm256_or_si256(nibbles, _mm256_cmpeq_epi8(bits, _mm256_setzero_si256()))};
    }
};

// Weights of plane P, by code.
template <int P>
struct TritBytes {
    alignas(16) uint8_t of[32];
    constexpr TritBytes() : of() {
        for (int i = 0; i < 32; ++i) of[i] = static_cast<uint8_t>(i / (P == 0 ? 1 : P == 1 ? 3 : 9) % 3);
    }
};
template <int P>
constexpr TritBytes<P> kTrits;

template <int Plane>
TK_INLINE Bytes trits(const T5Codes& codes) {
    const auto* table = reinterpret_cast<const __m128i*>(kTrits<Plane>.of);
    return (Bytes)_mm256_or_si256(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table)), codes.low),
                                  _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table + 1)), codes.high));
}

// The part + 1 of each phase 1, i, -1, -i (0 .. 3) on the real axis, or the imaginary one.
template <int Axis>
TK_INLINE Bytes phase_parts(Bytes phases) {
    const __m256i table = Axis == 0 ? _mm256_set1_epi32(0x01000102) : _mm256_set1_epi32(0x00010201);
    return (Bytes)_mm256_shuffle_epi8(table, (__m256i)phases);
}

}  // namespace
}  // namespace tk

#include "int_narrow.inl"
