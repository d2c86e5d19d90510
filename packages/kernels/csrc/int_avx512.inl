// Integer matrix products with AVX-512 VNNI. Included by isa_avx512.cpp and isa_avx512_vbmi.cpp.
//
// One vector holds 16 rows x 4 inputs of unsigned codes (code + offset); vpdpbusd multiplies it with 4 broadcast int8
// inputs of a token. Accumulators begin at -offset * sum of the inputs, which takes the offset out again.
// R blocks of rows x M tokens stay in registers; each vector of weights is unpacked once for the M tokens.
//
// For groups, the int32 sums of a group are multiplied with its scales (and those of the token's group) into float
// accumulators, after what minimums add, groups in order, so that a result does not depend on M or R.

#include <immintrin.h>

#include <algorithm>

#include "kernels.h"

namespace tk {
namespace {

template <int N>
struct Int {
    static constexpr int value = N;
};

// Calls body(Int<0>), ..., body(Int<N-1>): loops whose index must be a constant, to keep arrays in registers.
template <int N, typename Body>
TK_INLINE void unrolled(const Body& body) {
    if constexpr (N > 0) {
        unrolled<N - 1>(body);
        body(Int<N - 1>{});
    }
}

TK_INLINE __m512i broadcast(const uint32_t* x) { return _mm512_set1_epi32(static_cast<int>(*x)); }

// Unpackers: vector<Step>(unit) gives the weights of a step; in_place<Step>(unit) the same times 2^(shift * Step), which takes a mask alone.
struct UnpackT2 {
    static constexpr Format format = Format::t2;
    static constexpr int64_t steps = 4, unit_bytes = 64, shift = 2;
    template <int Step>
    TK_INLINE static __m512i in_place(const uint8_t* unit) {
        return _mm512_and_si512(_mm512_load_si512(unit), _mm512_set1_epi8(static_cast<char>(3 << shift * Step)));
    }
    template <int Step>
    TK_INLINE static __m512i vector(const uint8_t* unit) {
        const __m512i raw = _mm512_load_si512(unit);
        return _mm512_and_si512(Step ? _mm512_srli_epi16(raw, 2 * Step) : raw, _mm512_set1_epi8(3));
    }
};
struct UnpackQ4 {
    static constexpr Format format = Format::q4;
    static constexpr int64_t steps = 2, unit_bytes = 64, shift = 4;
    template <int Step>
    TK_INLINE static __m512i in_place(const uint8_t* unit) {
        return _mm512_and_si512(_mm512_load_si512(unit), _mm512_set1_epi8(static_cast<char>(15 << shift * Step)));
    }
    template <int Step>
    TK_INLINE static __m512i vector(const uint8_t* unit) {
        const __m512i raw = _mm512_load_si512(unit);
        return _mm512_and_si512(Step ? _mm512_srli_epi16(raw, 4) : raw, _mm512_set1_epi8(15));
    }
};
struct UnpackQ6 {
    static constexpr Format format = Format::q6;
    static constexpr int64_t steps = 4, unit_bytes = 192, shift = 0;
    template <int Step>
    TK_INLINE static __m512i in_place(const uint8_t* unit) {
        return vector<Step>(unit);
    }
    template <int Step>
    TK_INLINE static __m512i vector(const uint8_t* unit) {
        const __m512i low = _mm512_load_si512(unit + Step / 2 * 64), high = _mm512_load_si512(unit + 128);
        const __m512i bits = Step == 0   ? _mm512_slli_epi16(high, 4)
                             : Step == 1 ? _mm512_slli_epi16(high, 2)
                             : Step == 2 ? high
                                         : _mm512_srli_epi16(high, 2);
        return _mm512_or_si512(_mm512_and_si512(Step % 2 ? _mm512_srli_epi16(low, 4) : low, _mm512_set1_epi8(15)),
                               _mm512_and_si512(bits, _mm512_set1_epi8(48)));
    }
};
struct UnpackQ8 {
    static constexpr Format format = Format::q8;
    static constexpr int64_t steps = 1, unit_bytes = 64, shift = 0;
    template <int Step>
    TK_INLINE static __m512i in_place(const uint8_t* unit) {
        return vector<Step>(unit);
    }
    template <int Step>
    TK_INLINE static __m512i vector(const uint8_t* unit) {
        return _mm512_load_si512(unit);
    }
};

template <int R, int M>
struct Accumulators {
    __m512i of[R][M];

    TK_INLINE void begin(const int32_t* starts) {
        unrolled<M>([&](auto m) TK_INLINED {
            const __m512i start = _mm512_set1_epi32(starts[m.value]);
            unrolled<R>([&](auto r) TK_INLINED { of[r.value][m.value] = start; });
        });
    }

    TK_INLINE void dot(const __m512i (&weights)[R], const uint32_t* x) {
        unrolled<M>([&](auto m) TK_INLINED {
            const __m512i inputs = broadcast(x + m.value);
            unrolled<R>([&](auto r) TK_INLINED { of[r.value][m.value] = _mm512_dpbusd_epi32(of[r.value][m.value], weights[r.value], inputs); });
        });
    }
};

template <int R, int M>
struct Output {
    const Matrix& matrix;
    const Panel& x;
    int64_t block;
    float* out;
    int64_t stride;

    // values: [R][M]; multiplied with the rows' and the tokens' scales.
    template <typename Value>
    TK_INLINE void store(const Value& value) const {
        unrolled<R>([&](auto r) TK_INLINED {
            const __m512 row_scale = _mm512_load_ps(matrix.row_scales.data() + (block + r.value) * kRowBlock);
            unrolled<M>([&](auto m) TK_INLINED {
                const __m512 scaled = _mm512_mul_ps(value(r, m), _mm512_mul_ps(row_scale, _mm512_set1_ps(x.scales[m.value])));
                _mm512_storeu_ps(out + m.value * stride + (block + r.value) * kRowBlock, scaled);
            });
        });
    }
};

template <int R>
struct Blocks {
    const uint8_t* of[R];
    TK_INLINE Blocks(const Matrix& matrix, int64_t block) {
        for (int r = 0; r < R; ++r) of[r] = matrix.data.data() + (block + r) * matrix.block_bytes;
    }
};

// Rows are too short for the hardware to see a stream in them, so each unit asks for the same unit of the next tile of
// rows, which lies R blocks further. (16 sequences at once: 1.8 times the speed; one: 1.4 times.)
template <int R, int M>
TK_INLINE void prefetch_next_tile(const Matrix& matrix, const Blocks<R>& blocks, int64_t offset, int64_t bytes) {
        unrolled<R>([&](auto r) TK_INLINED {
            for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch(blocks.of[r.value] + R * matrix.block_bytes + offset + line, _MM_HINT_T0);
        });
}

template <typename Unpack, int R, int M>
TK_INLINE void accumulate(Accumulators<R, M>& sums, const Blocks<R>& blocks, int64_t offset, const uint32_t* x) {
    unrolled<Unpack::steps>([&](auto step) TK_INLINED {
        __m512i weights[R];
        unrolled<R>([&](auto r) TK_INLINED { weights[r.value] = Unpack::template vector<step.value>(blocks.of[r.value] + offset); });
        sums.dot(weights, x + step.value * M);
    });
}

TK_INLINE __m512 load_halves(const uint16_t* halves) { return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(halves))); }

template <int R, int M>
struct GroupSums {
    __m512 of[R][M];

    TK_INLINE void clear() {
        unrolled<R>([&](auto r) TK_INLINED { unrolled<M>([&](auto m) TK_INLINED { of[r.value][m.value] = _mm512_setzero_ps(); }); });
    }
    // What minimums add, whatever the codes are.
    TK_INLINE void begin(const Matrix& matrix, const Panel& x, int64_t block) {
        clear();
        if (!x.group_sums) return;
        const __m512 offset = _mm512_set1_ps(static_cast<float>(info(matrix.format).offset));
        for (int64_t group = 0; group < matrix.num_groups; ++group)
            unrolled<R>([&](auto r) TK_INLINED {
                const uint16_t* halves = matrix.minimums_of(block + r.value) + group * kRowBlock;
                _mm_prefetch(halves + R * 2 * matrix.num_groups * kRowBlock, _MM_HINT_T0);  // of the next tile
                const __m512 scales = load_halves(matrix.scales_of(block + r.value) + group * kRowBlock);
                const __m512 minimums = _mm512_fmadd_ps(scales, offset, load_halves(halves));
                unrolled<M>([&](auto m) TK_INLINED {
                    of[r.value][m.value] = _mm512_fmadd_ps(_mm512_set1_ps(x.group_sums[group * M + m.value]), minimums, of[r.value][m.value]);
                });
            });
    }
    template <bool TokenScales>
    TK_INLINE void add(const Accumulators<R, M>& sums, const Matrix& matrix, const Panel& x, int64_t block, int64_t group) {
        unrolled<R>([&](auto r) TK_INLINED {
            const uint16_t* halves = matrix.scales_of(block + r.value) + group * kRowBlock;
            _mm_prefetch(halves + R * matrix.planes() * matrix.num_groups * kRowBlock, _MM_HINT_T0);  // of the next tile
            const __m512 scales = load_halves(halves);
            unrolled<M>([&](auto m) TK_INLINED {
                const __m512 factors = TokenScales ? _mm512_mul_ps(scales, _mm512_set1_ps(x.group_scales[group * M + m.value])) : scales;
                of[r.value][m.value] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums.of[r.value][m.value]), factors, of[r.value][m.value]);
            });
        });
    }
};

template <typename Unpack, bool TokenScales, int R, int M>
TK_INLINE void add_groups(GroupSums<R, M>& total, const Matrix& matrix, const Panel& x, const Blocks<R>& blocks, int64_t block) {
    const int64_t units_per_group = matrix.group / (Unpack::steps * kStep);
    Accumulators<R, M> sums;
    for (int64_t group = 0, unit = 0; group < matrix.num_groups; ++group) {
        sums.begin(x.starts + group * M);
        for (int64_t end = unit + units_per_group; unit < end; ++unit) {
            prefetch_next_tile<R, M>(matrix, blocks, unit * Unpack::unit_bytes, Unpack::unit_bytes);
            accumulate<Unpack>(sums, blocks, unit * Unpack::unit_bytes, x.codes + unit * Unpack::steps * M);
        }
        total.template add<TokenScales>(sums, matrix, x, block, group);
    }
}

template <typename Unpack, int R, int M>
void plain_tile(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
    const int64_t units = matrix.padded_cols / (Unpack::steps * kStep);
    const Blocks<R> blocks(matrix, block);
    const Output<R, M> output{matrix, x, block, out, stride};
    if (!matrix.group) {
        Accumulators<R, M> sums;
        sums.begin(x.starts);
        for (int64_t unit = 0; unit < units; ++unit) {
            prefetch_next_tile<R, M>(matrix, blocks, unit * Unpack::unit_bytes, Unpack::unit_bytes);
            accumulate<Unpack>(sums, blocks, unit * Unpack::unit_bytes, x.codes + unit * Unpack::steps * M);
        }
        output.store([&](auto r, auto m) TK_INLINED { return _mm512_cvtepi32_ps(sums.of[r.value][m.value]); });
        return;
    }
    GroupSums<R, M> total;
    if constexpr (Unpack::format == Format::t2) {
        total.clear();
        add_groups<Unpack, false>(total, matrix, x, blocks, block);
    } else {
        total.begin(matrix, x, block);
        if (x.group_scales) add_groups<Unpack, true>(total, matrix, x, blocks, block);
        else add_groups<Unpack, false>(total, matrix, x, blocks, block);
    }
    output.store([&](auto r, auto m) TK_INLINED { return total.of[r.value][m.value]; });
}

// Sums of one block of rows for M tokens, apart for the steps of a unit: one sum would wait for itself, and weights need not be
// shifted before the product, where each sum is once at the end.
template <typename Unpack, int M>
struct StepSums {
    __m512i of[M][Unpack::steps];

    TK_INLINE void begin(const int32_t* starts) {
        unrolled<M>([&](auto m) TK_INLINED {
            of[m.value][0] = _mm512_set1_epi32(starts[m.value]);
            for (int i = 1; i < Unpack::steps; ++i) of[m.value][i] = _mm512_setzero_si512();
        });
    }
    TK_INLINE void add(const uint8_t* unit, const uint32_t* x) {
        unrolled<Unpack::steps>([&](auto step) TK_INLINED {
            const __m512i weights = Unpack::template in_place<step.value>(unit);
            unrolled<M>([&](auto m) TK_INLINED {
                of[m.value][step.value] = _mm512_dpbusd_epi32(of[m.value][step.value], weights, broadcast(x + step.value * M + m.value));
            });
        });
    }
    TK_INLINE __m512 value(int m) const {
        __m512i total = of[m][0];
        unrolled<Unpack::steps - 1>([&](auto i) TK_INLINED {
            constexpr int step = i.value + 1;
            total = _mm512_add_epi32(total, _mm512_srai_epi32(of[m][step], Unpack::shift * step));
        });
        return _mm512_cvtepi32_ps(total);
    }
};

// One token, or two (those of a head are the halves of one): a block of rows after the other, as they lie in memory, which
// hardware sees as one stream. (Tiles of four blocks read a matrix of 8 MB at 18 GB/s, this at 28. A prefetch 1 KB ahead was
// the best of 1, 2, 4 and 8.)
template <typename Unpack, int M>
struct Stream {
    static constexpr int64_t ahead = 1024;
    const Matrix& matrix;
    const Panel& x;

    TK_INLINE void add_units(StepSums<Unpack, M>& sums, const uint8_t* data, int64_t units, const uint32_t* codes) const {
        for (int64_t unit = 0; unit < units; ++unit, data += Unpack::unit_bytes, codes += Unpack::steps * M) {
            for (int64_t line = 0; line < Unpack::unit_bytes; line += 64) _mm_prefetch(data + ahead + line, _MM_HINT_T0);
            sums.add(data, codes);
        }
    }

    template <bool TokenScales>
    TK_INLINE void add_groups(GroupSums<1, M>& total, const uint8_t* data, int64_t block) const {
        const int64_t units = matrix.group / (Unpack::steps * kStep), bytes = units * Unpack::unit_bytes;
        const uint16_t* halves = matrix.scales_of(block);
        StepSums<Unpack, M> sums;
        for (int64_t group = 0; group < matrix.num_groups; ++group, data += bytes, halves += kRowBlock) {
            _mm_prefetch(halves + ahead / 16, _MM_HINT_T0);
            sums.begin(x.starts + group * M);
            add_units(sums, data, units, x.codes + group * units * Unpack::steps * M);
            const __m512 scales = load_halves(halves);
            unrolled<M>([&](auto m) TK_INLINED {
                const __m512 factors = TokenScales ? _mm512_mul_ps(scales, _mm512_set1_ps(x.group_scales[group * M + m.value])) : scales;
                total.of[0][m.value] = _mm512_fmadd_ps(sums.value(m.value), factors, total.of[0][m.value]);
            });
        }
    }

    TK_INLINE void multiply(int64_t block, const Output<1, M>& output) const {
        const uint8_t* data = matrix.data.data() + block * matrix.block_bytes;
        if (!matrix.group) {
            StepSums<Unpack, M> sums;
            sums.begin(x.starts);
            add_units(sums, data, matrix.padded_cols / (Unpack::steps * kStep), x.codes);
            return output.store([&](auto, auto m) TK_INLINED { return sums.value(m.value); });
        }
        GroupSums<1, M> total;
        if constexpr (Unpack::format == Format::t2) {
            total.clear();
            add_groups<false>(total, data, block);
        } else {
            total.begin(matrix, x, block);
            if (x.group_scales) add_groups<true>(total, data, block);
            else add_groups<false>(total, data, block);
        }
        output.store([&](auto, auto m) TK_INLINED { return total.of[0][m.value]; });
    }
};

// 3 weights in 5 bits: 4 bits from the nibbles, the fifth as a mask. With VBMI one byte permutation gives a plane's
// weights, without it two 16-entry shuffles under the mask.
struct T5Codes {
    __m512i low;
    __mmask64 high;

    // Of step 2 * pair + Half.
    template <int Half>
    TK_INLINE static T5Codes load(const uint8_t* unit, int64_t pair) {
        const __m512i raw = _mm512_load_si512(unit + pair * 64);
        const __m512i low = _mm512_and_si512(Half ? _mm512_srli_epi16(raw, 4) : raw, _mm512_set1_epi8(15));
        const __mmask64 high = *reinterpret_cast<const uint64_t*>(unit + 256 + 16 * pair + 8 * Half);
#ifdef __AVX512VBMI__
        return {_mm512_mask_add_epi8(low, high, low, _mm512_set1_epi8(16)), high};
#else
        return {low, high};
#endif
    }
};

// The weights of plane p for each code: [p][0..31], twice.
struct TritBytes {
    alignas(64) uint8_t of[3][64];
    constexpr TritBytes() : of() {
        for (int plane = 0, power = 1; plane < 3; ++plane, power *= 3)
            for (int i = 0; i < 64; ++i) of[plane][i] = static_cast<uint8_t>(i % 32 / power % 3);
    }
};
alignas(64) constexpr TritBytes kTrits;

struct TritTable {
#ifdef __AVX512VBMI__
    __m512i all;
    TK_INLINE explicit TritTable(int plane) : all(_mm512_load_si512(kTrits.of[plane])) {}
#else
    __m512i low, high;  // codes 0..15 and 16..31
    TK_INLINE explicit TritTable(int plane)
        : low(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kTrits.of[plane])))),
          high(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kTrits.of[plane] + 16)))) {}
#endif

    TK_INLINE __m512i weights(const T5Codes& codes) const {
#ifdef __AVX512VBMI__
        return _mm512_permutexvar_epi8(codes.low, all);
#else
        return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, codes.low), codes.high, high, codes.low);
#endif
    }
};

struct TritTables {
    TritTable of[3] = {TritTable(0), TritTable(1), TritTable(2)};
};

// A unit has 8 steps, two to a vector of nibbles. A loop over these pairs is as fast as all steps in a row (without VBMI 3 %
// slower for several tokens), and compiles in two fifths of the time.
constexpr int64_t kT5Pairs = 4;

// Accumulates plane `plane` of one unit.
template <int R, int M>
TK_INLINE void t5_unit_plane(Accumulators<R, M>& sums, const Blocks<R>& blocks, int64_t offset, const TritTable& table,
                                                         const uint32_t* x) {
    for (int64_t pair = 0; pair < kT5Pairs; ++pair)
        unrolled<2>([&](auto half) TK_INLINED {
            __m512i weights[R];
            unrolled<R>([&](auto r) TK_INLINED { weights[r.value] = table.weights(T5Codes::load<half.value>(blocks.of[r.value] + offset, pair)); });
            sums.dot(weights, x + (2 * pair + half.value) * M);
        });
}

// Accumulates all planes of one unit into `sums[plane % S]`; plane p multiplies the inputs at x + p * plane_steps * M.
template <int S, int R, int M>
TK_INLINE void t5_unit(Accumulators<R, M> (&sums)[S], const Blocks<R>& blocks, int64_t offset,
                                                   const TritTables& tables, const uint32_t* x, int64_t plane_steps) {
    for (int64_t pair = 0; pair < kT5Pairs; ++pair)
        unrolled<2>([&](auto half) TK_INLINED {
            T5Codes codes[R];
            unrolled<R>([&](auto r) TK_INLINED { codes[r.value] = T5Codes::load<half.value>(blocks.of[r.value] + offset, pair); });
            unrolled<3>([&](auto plane) TK_INLINED {
                __m512i weights[R];
                unrolled<R>([&](auto r) TK_INLINED { weights[r.value] = tables.of[plane.value].weights(codes[r.value]); });
                sums[plane.value % S].dot(weights, x + (plane.value * plane_steps + 2 * pair + half.value) * M);
            });
        });
}

template <int R, int M>
void t5_tile(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
    const TritTables tables;
    const Blocks<R> blocks(matrix, block);
    const Output<R, M> output{matrix, x, block, out, stride};
    if (!matrix.group) {
        Accumulators<R, M> sums[1];
        sums[0].begin(x.starts);
        const int64_t units = matrix.padded_cols / 96;
        for (int64_t unit = 0; unit < units; ++unit) {
            prefetch_next_tile<R, M>(matrix, blocks, unit * 320, 320);
            t5_unit<1>(sums, blocks, unit * 320, tables, x.codes + unit * 24 * M, 8);
        }
        output.store([&](auto r, auto m) TK_INLINED { return _mm512_cvtepi32_ps(sums[0].of[r.value][m.value]); });
        return;
    }
    const int64_t plane_steps = matrix.group / kStep, units = matrix.group / 32;  // of a super block: 3 groups
    GroupSums<R, M> total;
    total.clear();
    for (int64_t group = 0; group < matrix.num_groups; group += 3) {
        const int64_t first = group / 3 * units;
        const uint32_t* inputs = x.codes + group * plane_steps * M;
        if constexpr (R * M <= 6) {
            Accumulators<R, M> sums[3];
            unrolled<3>([&](auto plane) TK_INLINED { sums[plane.value].begin(x.starts + (group + plane.value) * M); });
            for (int64_t unit = 0; unit < units; ++unit) {
                prefetch_next_tile<R, M>(matrix, blocks, (first + unit) * 320, 320);
                t5_unit<3>(sums, blocks, (first + unit) * 320, tables, inputs + unit * 8 * M, plane_steps);
            }
            unrolled<3>([&](auto plane) TK_INLINED { total.template add<false>(sums[plane.value], matrix, x, block, group + plane.value); });
        } else {
            unrolled<3>([&](auto plane) TK_INLINED {
                Accumulators<R, M> sums;
                sums.begin(x.starts + (group + plane.value) * M);
                for (int64_t unit = 0; unit < units; ++unit) {
                    if constexpr (plane.value == 0) prefetch_next_tile<R, M>(matrix, blocks, (first + unit) * 320, 320);
                    t5_unit_plane(sums, blocks, (first + unit) * 320, tables.of[plane.value],
                                  inputs + (plane.value * plane_steps + unit * 8) * M);
                }
                total.template add<false>(sums, matrix, x, block, group + plane.value);
            });
        }
    }
    output.store([&](auto r, auto m) TK_INLINED { return total.of[r.value][m.value]; });
}

// Blocks of rows per tile: as many as the 32 registers allow.
constexpr int row_blocks_per_tile(int tokens, bool grouped) {
    if (grouped) return tokens <= 2 ? 4 : tokens <= 6 ? 2 : 1;
    return tokens <= 4 ? 4 : 2;
}

template <typename Tile4, typename Tile2, typename Tile1>
inline void over_blocks(int64_t first, int64_t last, int per_tile, const Tile4& four, const Tile2& two, const Tile1& one) {
    int64_t block = first;
    if (per_tile == 4)
        for (; block + 4 <= last; block += 4) four(block);
    if (per_tile >= 2)
        for (; block + 2 <= last; block += 2) two(block);
    for (; block < last; ++block) one(block);
}

template <typename Kernel, int M>
void matmul_tokens(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    over_blocks(
        first, last, row_blocks_per_tile(M, matrix.group != 0),
        [&](int64_t block) {
            if constexpr (row_blocks_per_tile(M, false) == 4) Kernel::template tile<4, M>(matrix, x, block, out, stride);
        },
        [&](int64_t block) { Kernel::template tile<2, M>(matrix, x, block, out, stride); },
        [&](int64_t block) { Kernel::template tile<1, M>(matrix, x, block, out, stride); });
}

template <typename Kernel>
void matmul(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    switch (x.tokens) {
        case 1: return Kernel::template few_tokens<1>(matrix, x, first, last, out, stride);
        case 2: return Kernel::template few_tokens<2>(matrix, x, first, last, out, stride);
        case 3: return matmul_tokens<Kernel, 3>(matrix, x, first, last, out, stride);
        case 4: return matmul_tokens<Kernel, 4>(matrix, x, first, last, out, stride);
        case 6: return matmul_tokens<Kernel, 6>(matrix, x, first, last, out, stride);
        default: return matmul_tokens<Kernel, kTokenTile>(matrix, x, first, last, out, stride);
    }
}

template <typename Unpack>
struct PlainKernel {
    template <int R, int M>
    static void tile(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
        plain_tile<Unpack, R, M>(matrix, x, block, out, stride);
    }
    template <int M>
    static void few_tokens(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
        const Stream<Unpack, M> stream{matrix, x};
        for (int64_t block = first; block < last; ++block) stream.multiply(block, {matrix, x, block, out, stride});
    }
};

struct T5Kernel {
    template <int R, int M>
    static void tile(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
        t5_tile<R, M>(matrix, x, block, out, stride);
    }
    template <int M>
    static void few_tokens(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
        matmul_tokens<T5Kernel, M>(matrix, x, first, last, out, stride);
    }
};

// The part + 1 of the phases 1, i, -1, -i on an axis, for the first or the second two bits of a nibble.
struct PhaseBytes {
    alignas(16) uint8_t of[2][2][16];
    constexpr PhaseBytes() : of() {
        constexpr uint8_t parts[2][4] = {{2, 1, 0, 1}, {1, 2, 1, 0}};
        for (int axis = 0; axis < 2; ++axis)
            for (int i = 0; i < 16; ++i) {
                of[axis][0][i] = parts[axis][i & 3];
                of[axis][1][i] = parts[axis][i >> 2];
            }
    }
};
constexpr PhaseBytes kPhases;

struct PhaseTables {
    __m512i of[2][2];
    TK_INLINE PhaseTables() {
        for (int axis = 0; axis < 2; ++axis)
            for (int half = 0; half < 2; ++half)
                of[axis][half] = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kPhases.of[axis][half])));
    }
};

// Sums of some planes of a block of 16 pairs of rows, of each axis, with the M rows of the panel: two for each token.
template <int Planes, int M>
struct PlaneSums {
    __m512i of[Planes][2][M];

    TK_INLINE void begin(const int32_t* starts) {
        unrolled<M>([&](auto m) TK_INLINED {
            const __m512i start = _mm512_set1_epi32(starts[m.value]);
            unrolled<Planes>([&](auto p) TK_INLINED { of[p.value][0][m.value] = of[p.value][1][m.value] = start; });
        });
    }
    // Four steps of each plane.
    TK_INLINE void add(const uint8_t* unit, const PhaseTables& tables, const uint32_t* x) {
        unrolled<Planes>([&](auto p) TK_INLINED {
            const __m512i raw = _mm512_load_si512(unit + p.value * 64);
            const __m512i nibbles[2] = {_mm512_and_si512(raw, _mm512_set1_epi8(15)),
                                        _mm512_and_si512(_mm512_srli_epi16(raw, 4), _mm512_set1_epi8(15))};
            unrolled<4>([&](auto step) TK_INLINED {
                unrolled<2>([&](auto axis) TK_INLINED {
                    const __m512i parts = _mm512_shuffle_epi8(tables.of[axis.value][step.value % 2], nibbles[step.value / 2]);
                    unrolled<M>([&](auto m) TK_INLINED {
                        __m512i& sum = of[p.value][axis.value][m.value];
                        sum = _mm512_dpbusd_epi32(sum, parts, broadcast(x + step.value * M + m.value));
                    });
                });
            });
        });
    }
};

// A block of 16 pairs of rows for M / 2 tokens. As many planes at once as leave registers for what is decoded.
template <int NumPlanes, int M>
TK_INLINE void phase_block(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
    constexpr int at_once = M <= 2 ? NumPlanes : M <= 4 ? 2 : 1;
    constexpr int64_t unit_bytes = NumPlanes * 64, ahead = 1024;
    const PhaseTables tables;
    const int64_t units = matrix.block_bytes / unit_bytes;
    const uint8_t* data = matrix.data.data() + block * matrix.block_bytes;
    __m512 values[M];  // of each token real parts, then imaginary ones
    unrolled<M>([&](auto m) TK_INLINED { values[m.value] = _mm512_setzero_ps(); });
    for (int plane = 0; plane < NumPlanes; plane += at_once) {
        PlaneSums<at_once, M> sums;
        sums.begin(x.starts);
        for (int64_t unit = 0; unit < units; ++unit) {
            const uint8_t* place = data + unit * unit_bytes + plane * 64;
            for (int p = 0; p < at_once; ++p) _mm_prefetch(place + (M <= 2 ? ahead : matrix.block_bytes) + p * 64, _MM_HINT_T0);
            sums.add(place, tables, x.codes + unit * 4 * M);
        }
        unrolled<at_once>([&](auto p) TK_INLINED {
            const float* scales = matrix.row_scales.data() + 2 * (plane + p.value);
            const float sign = (plane + p.value) % 2 ? -1.0f : 1.0f;  // W's input is conjugated
            const __m512 along = _mm512_set1_ps(scales[0]), signed_along = _mm512_set1_ps(sign * scales[0]);
            const __m512 across = _mm512_set1_ps(scales[1]), signed_across = _mm512_set1_ps(-sign * scales[1]);
            unrolled<M / 2>([&](auto token) TK_INLINED {
                constexpr int t = 2 * token.value;
                const auto& [real, imaginary] = sums.of[p.value];
                values[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(real[t]), along, values[t]);
                values[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(imaginary[t + 1]), signed_across, values[t]);
                values[t + 1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(real[t + 1]), signed_along, values[t + 1]);
                values[t + 1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(imaginary[t]), across, values[t + 1]);
            });
        });
    }
    const int64_t half_rows = matrix.rows / 2, row = block * kRowBlock;
    const auto inside = static_cast<__mmask16>((1u << std::min(kRowBlock, half_rows - row)) - 1);
    unrolled<M>([&](auto m) TK_INLINED {
        _mm512_mask_storeu_ps(out + m.value / 2 * stride + m.value % 2 * half_rows + row, inside,
                              _mm512_mul_ps(values[m.value], _mm512_set1_ps(x.scales[m.value])));
    });
}

template <int NumPlanes, int M>
void phase_blocks(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    for (int64_t block = first; block < last; ++block) phase_block<NumPlanes, M>(matrix, x, block, out, stride);
}

template <int NumPlanes>
void matmul_phases(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    switch (x.tokens) {
        case 2: return phase_blocks<NumPlanes, 2>(matrix, x, first, last, out, stride);
        case 4: return phase_blocks<NumPlanes, 4>(matrix, x, first, last, out, stride);
        case 6: return phase_blocks<NumPlanes, 6>(matrix, x, first, last, out, stride);
        default: return phase_blocks<NumPlanes, kTokenTile>(matrix, x, first, last, out, stride);
    }
}

}  // namespace
}  // namespace tk
