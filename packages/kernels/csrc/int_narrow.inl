// Integer matrix products on vectors of fewer than 16 rows. Included by int_avx2.inl and int_neon.inl, which give the
// dot product (Sums), the decoding of t5 (T5Codes, trits) and of phases (phase_parts) and whether weights are signed
// (kSignedWeights).
//
// One or two tokens: weights go from the packed bytes to the product in registers. Where kFetchesAhead, one token reads a block of
// rows after the other (kOneTokenBlocks), which hardware sees as one stream, and asks for what comes 1 KB later; two tokens
// read two blocks at once and ask for the next two. Else several blocks at once.
// More tokens (and t5): a stretch of one block is unpacked to bytes once, then used for the tokens, up to 6 at a time.
// Unsigned weights are code + offset; sums then begin at -offset * sum of the inputs, which takes the offset out again.
//
// For groups, the int32 sums of a group are multiplied with its scales (and those of the token's group) into float sums,
// after what minimums add, groups in order, so that a result does not depend on the tile.

#include <algorithm>

namespace tk {
namespace {

// Unpackers: vector<Step>(unit) gives the weights of one step, for the rows of one part; in_place<Step>(unit) the same times
// 2^(shift * Step), which takes a mask alone.
struct UnpackT2 {
    static constexpr int steps = 4, unit_bytes = 64, max_code = 2, offset = 1, shift = 2;
    template <int Step>
    TK_INLINE static Bytes vector(const uint8_t* unit) {
        return shifted_right<2 * Step>(load_bytes(unit)) & 3;
    }
    template <int Step>
    TK_INLINE static Bytes in_place(const uint8_t* unit) {
        return load_bytes(unit) & static_cast<uint8_t>(3 << shift * Step);
    }
};
struct UnpackQ4 {
    static constexpr int steps = 2, unit_bytes = 64, max_code = 15, offset = 8, shift = 4;
    template <int Step>
    TK_INLINE static Bytes vector(const uint8_t* unit) {
        return shifted_right<4 * Step>(load_bytes(unit)) & 15;
    }
    template <int Step>
    TK_INLINE static Bytes in_place(const uint8_t* unit) {
        return load_bytes(unit) & static_cast<uint8_t>(15 << shift * Step);
    }
};
struct UnpackQ6 {
    static constexpr int steps = 4, unit_bytes = 192, max_code = 63, offset = 32, shift = 0;
    template <int Step>
    TK_INLINE static Bytes vector(const uint8_t* unit) {
        const Bytes low = shifted_right<Step % 2 * 4>(load_bytes(unit + Step / 2 * 64)) & 15, high = load_bytes(unit + 128);
        if constexpr (Step < 2) return low | (shifted_left<4 - 2 * Step>(high) & 48);
        else return low | (shifted_right<2 * Step - 4>(high) & 48);
    }
    template <int Step>
    TK_INLINE static Bytes in_place(const uint8_t* unit) {
        return vector<Step>(unit);
    }
};
struct UnpackQ8 {
    static constexpr int steps = 1, unit_bytes = 64, max_code = 255, offset = 128, shift = 0;
    template <int Step>
    TK_INLINE static Bytes vector(const uint8_t* unit) {
        return load_bytes(unit);
    }
    template <int Step>
    TK_INLINE static Bytes in_place(const uint8_t* unit) {
        return vector<Step>(unit);
    }
};

template <typename Unpack, int Step>
TK_INLINE Bytes unpacked(const uint8_t* unit) {
    const Bytes codes = Unpack::template vector<Step>(unit);
    if constexpr (kSignedWeights) return codes - static_cast<uint8_t>(Unpack::offset);
    return codes;
}

// Where a product reads its weights: R packed blocks, ...
template <typename Unpack, int R>
struct PackedBlocks {
    static constexpr int steps = Unpack::steps, max_code = Unpack::max_code;
    const uint8_t* of[R];
    int64_t ahead;  // bytes to what is asked for

    TK_INLINE void fetch(int64_t unit) const {
        if constexpr (kFetchesAhead)
            unrolled<R>([&](auto r) TK_INLINED {
                for (int64_t line = 0; line < Unpack::unit_bytes; line += 64) __builtin_prefetch(of[r.value] + unit * Unpack::unit_bytes + ahead + line);
            });
    }

    template <int Step, int H>
    TK_INLINE Bytes weights(int64_t unit) const {
        return unpacked<Unpack, Step>(of[H / kParts] + unit * Unpack::unit_bytes + H % kParts * sizeof(Bytes));
    }
};

// ... or one block, already unpacked to bytes.
template <int MaxCode>
struct UnpackedBlock {
    static constexpr int steps = 1, max_code = MaxCode;
    const uint8_t* bytes;

    TK_INLINE void fetch(int64_t) const {}  // it is in the cache

    template <int Step, int H>
    TK_INLINE Bytes weights(int64_t unit) const {
        return load_bytes(bytes + (unit * kParts + H) * sizeof(Bytes));
    }
};

// One step for all sums. Few tokens: their inputs stay in registers, each vector of weights is used as it comes.
// Many tokens: the other way round.
template <int Step, int H, int M, typename Source, typename Sum>
TK_INLINE void add_step(Sum& sums, const Source& source, int64_t unit, const uint32_t* x) {
    if constexpr (M <= 2) {
        decltype(Sum::input(x)) inputs[M];
        unrolled<M>([&](auto m) TK_INLINED { inputs[m.value] = Sum::input(x + m.value); });
        unrolled<H>([&](auto h) TK_INLINED {
            const Bytes weights = source.template weights<Step, h.value>(unit);
            unrolled<M>([&](auto m) TK_INLINED { sums.template dot<h.value, m.value>(weights, inputs[m.value]); });
        });
    } else {
        Bytes weights[H];
        unrolled<H>([&](auto h) TK_INLINED { weights[h.value] = source.template weights<Step, h.value>(unit); });
        unrolled<M>([&](auto m) TK_INLINED {
            const auto inputs = Sum::input(x + m.value);
            unrolled<H>([&](auto h) TK_INLINED { sums.template dot<h.value, m.value>(weights[h.value], inputs); });
        });
    }
}

// Adds to totals [M][H] the products of some units with the inputs x[step * tokens + m].
template <typename Source, int H, int M>
TK_INLINE void add_products(const Source& source, int64_t units, const uint32_t* x, int64_t tokens, VecInt* totals) {
    using Sum = Sums<Source::max_code, H, M>;
    constexpr int64_t units_at_once = Sum::steps > Source::steps ? Sum::steps / Source::steps : 1;
    for (int64_t unit = 0; unit < units;) {
        Sum sums;
        sums.begin(totals);
        for (const int64_t end = std::min(units, unit + units_at_once); unit < end; ++unit, x += Source::steps * tokens) {
            source.fetch(unit);
            unrolled<Source::steps>([&](auto step) TK_INLINED {
                add_step<step.value, H, M>(sums, source, unit, x + step.value * tokens);
                if constexpr ((step.value + 1) % Sum::steps == 0 && step.value + 1 < Source::steps) {
                    sums.end(totals);
                    sums.begin(totals);
                }
            });
        }
        sums.end(totals);
    }
}

// The same for one block and one token, each step with a sum of its own.
template <typename Unpack>
TK_INLINE void add_apart(const PackedBlocks<Unpack, 1>& source, int64_t units, const uint32_t* x, VecInt* totals) {
    using Sum = StepSums<Unpack>;
    for (int64_t unit = 0; unit < units;) {
        Sum sums;
        sums.begin(totals);
        for (const int64_t end = std::min(units, unit + Sum::units); unit < end; ++unit, x += Unpack::steps) {
            source.fetch(unit);
            unrolled<Unpack::steps>([&](auto step) TK_INLINED {
                sums.template add<step.value>(source.of[0] + unit * Unpack::unit_bytes, x + step.value);
            });
        }
        sums.end(totals);
    }
}

// totals [tokens][H] of one scale group (or the whole row) before any product. Here and below M is the number of tokens where it is known.
template <int H, int M = 0>
TK_INLINE void begin_totals(VecInt* totals, const Panel& x, int64_t group) {
    const int64_t tokens = M ? M : x.tokens;
    for (int64_t t = 0; t < tokens; ++t)
        for (int h = 0; h < H; ++h) totals[t * H + h] = VecInt{} + (kSignedWeights ? 0 : x.starts[group * tokens + t]);
}

// sums [tokens][H] before any group: what minimums add, whatever the codes are.
template <int H, int M = 0>
TK_INLINE void begin_sums(Vec* sums, const Matrix& matrix, const Panel& x, int64_t block) {
    const int64_t tokens = M ? M : x.tokens;
    for (int64_t i = 0; i < tokens * H; ++i) sums[i] = Vec{};
    if (!x.group_sums) return;
    const Vec offset = splat(static_cast<float>(info(matrix.format).offset));
    for (int64_t group = 0; group < matrix.num_groups; ++group) {
        for (int h = 0; h < H; ++h) {
            const int64_t place = group * kRowBlock + h % kParts * kWidth;
            const Vec scales = load_half(matrix.scales_of(block + h / kParts) + place);
            const Vec minimums = fma(scales, offset, load_half(matrix.minimums_of(block + h / kParts) + place));
            for (int64_t t = 0; t < tokens; ++t) sums[t * H + h] = fma(splat(x.group_sums[group * tokens + t]), minimums, sums[t * H + h]);
        }
    }
}

// sums [tokens][H] += totals * scales of the group
template <int H, int M = 0>
TK_INLINE void add_group(Vec* sums, const VecInt* totals, const Matrix& matrix, const Panel& x, int64_t block, int64_t group) {
    const int64_t tokens = M ? M : x.tokens;
    for (int h = 0; h < H; ++h) {
        const Vec scales = load_half(matrix.scales_of(block + h / kParts) + group * kRowBlock + h % kParts * kWidth);
        for (int64_t t = 0; t < tokens; ++t) {
            const Vec factors = x.group_scales ? scales * splat(x.group_scales[group * tokens + t]) : scales;
            sums[t * H + h] = fma(to_float(totals[t * H + h]), factors, sums[t * H + h]);
        }
    }
}

template <int H, int M = 0>
TK_INLINE void store_rows(const Matrix& matrix, const Panel& x, const Vec* sums, const VecInt* totals, int64_t block, float* out,
                          int64_t stride) {
    const int64_t tokens = M ? M : x.tokens;
    for (int h = 0; h < H; ++h) {
        const int64_t row = block * kRowBlock + h * kWidth;
        const Vec row_scales = load(matrix.row_scales.data() + row);
        for (int64_t t = 0; t < tokens; ++t) {
            const Vec value = matrix.group ? sums[t * H + h] : to_float(totals[t * H + h]);
            store(out + t * stride + row, value * (row_scales * splat(x.scales[t])));
        }
    }
}

template <typename Unpack, int R, int M>
void packed_tile(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
    constexpr int H = R * kParts;
    VecInt totals[M * H] = {};  // so that no compiler doubts it
    Vec sums[M * H];
    begin_sums<H, M>(sums, matrix, x, block);
    constexpr int64_t kAhead = 1024;  // in one stream; of more blocks the next tile's
    PackedBlocks<Unpack, R> blocks;
    blocks.ahead = R == 1 ? kAhead : R * matrix.block_bytes;
    for (int r = 0; r < R; ++r) blocks.of[r] = matrix.data.data() + (block + r) * matrix.block_bytes;
    const int64_t units = (matrix.group ? matrix.group : matrix.padded_cols) / (Unpack::steps * kStep);
    const uint32_t* codes = x.codes;
    for (int64_t group = 0; group < std::max<int64_t>(matrix.num_groups, 1); ++group) {
        begin_totals<H, M>(totals, x, group);
        if constexpr (R == 1 && M == 1 && kApart<Unpack>) add_apart<Unpack>(blocks, units, codes, totals);
        else add_products<PackedBlocks<Unpack, R>, H, M>(blocks, units, codes, M, totals);
        if (matrix.group) add_group<H, M>(sums, totals, matrix, x, block, group);
        codes += units * Unpack::steps * M;
        for (auto& of : blocks.of) of += units * Unpack::unit_bytes;
    }
    store_rows<H, M>(matrix, x, sums, totals, block, out, stride);
}

constexpr int64_t kBufferSteps = 96;  // unpacked at a time: 6 KiB

template <int MaxCode, int M>
void multiply_tokens(const uint8_t* weights, int64_t steps, const uint32_t* x, int64_t tokens, VecInt* totals) {
    for (int64_t t = 0; t < tokens; t += M)
        add_products<UnpackedBlock<MaxCode>, kParts, M>({weights}, steps, x + t, tokens, totals + t * kParts);
}

template <int MaxCode>
void multiply_buffer(const uint8_t* weights, int64_t steps, const uint32_t* x, int64_t tokens, VecInt* totals) {
    switch (tokens) {
        case 1: return multiply_tokens<MaxCode, 1>(weights, steps, x, tokens, totals);
        case 2: return multiply_tokens<MaxCode, 2>(weights, steps, x, tokens, totals);
        case 3: return multiply_tokens<MaxCode, 3>(weights, steps, x, tokens, totals);
        case 4:
        case 8: return multiply_tokens<MaxCode, 4>(weights, steps, x, tokens, totals);
        default: return multiply_tokens<MaxCode, 6>(weights, steps, x, tokens, totals);
    }
}

template <typename Unpack>
void unpack_units(const uint8_t* packed, int64_t units, uint8_t* weights) {
    auto* out = reinterpret_cast<Bytes*>(weights);
    for (int64_t unit = 0; unit < units; ++unit, packed += Unpack::unit_bytes, out += Unpack::steps * kParts)
        unrolled<Unpack::steps>([&](auto step) TK_INLINED {
            unrolled<kParts>([&](auto part) TK_INLINED {
                out[step.value * kParts + part.value] = unpacked<Unpack, step.value>(packed + part.value * sizeof(Bytes));
            });
        });
}

template <typename Unpack>
void buffered_block(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
    alignas(64) uint8_t weights[kBufferSteps * kRowBlock * kStep];
    VecInt totals[kTokenTile * kParts];
    Vec sums[kTokenTile * kParts];
    begin_sums<kParts>(sums, matrix, x, block);
    constexpr int64_t kUnits = kBufferSteps / Unpack::steps;
    const int64_t units = (matrix.group ? matrix.group : matrix.padded_cols) / (Unpack::steps * kStep);
    const uint8_t* packed = matrix.data.data() + block * matrix.block_bytes;
    const uint32_t* codes = x.codes;
    for (int64_t group = 0; group < std::max<int64_t>(matrix.num_groups, 1); ++group) {
        begin_totals<kParts>(totals, x, group);
        for (int64_t unit = 0, count; unit < units; unit += count) {
            count = std::min(kUnits, units - unit);
            unpack_units<Unpack>(packed, count, weights);
            multiply_buffer<Unpack::max_code>(weights, count * Unpack::steps, codes, x.tokens, totals);
            packed += count * Unpack::unit_bytes;
            codes += count * Unpack::steps * x.tokens;
        }
        if (matrix.group) add_group<kParts>(sums, totals, matrix, x, block, group);
    }
    store_rows<kParts>(matrix, x, sums, totals, block, out, stride);
}

constexpr int64_t kT5UnitBytes = 320, kT5UnitSteps = 8, kT5BufferUnits = kBufferSteps / (3 * kT5UnitSteps);

// Step s of plane p of unit u goes to weights + (u * unit_steps + p * plane_steps + s) * 64.
void unpack_t5(const uint8_t* packed, int64_t units, uint8_t* weights, int64_t unit_steps, int64_t plane_steps) {
    for (int64_t unit = 0; unit < units; ++unit, packed += kT5UnitBytes) {
        auto* out = reinterpret_cast<Bytes*>(weights) + unit * unit_steps * kParts;
        unrolled<kT5UnitSteps>([&](auto step) TK_INLINED {
            unrolled<kParts>([&](auto part) TK_INLINED {
                const auto codes = T5Codes::load<step.value>(packed, part.value);
                unrolled<3>([&](auto plane) TK_INLINED {
                    out[(plane.value * plane_steps + step.value) * kParts + part.value] = trits<plane.value>(codes);
                });
            });
        });
    }
}

void t5_rows(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
    alignas(64) uint8_t weights[kBufferSteps * kRowBlock * kStep];
    VecInt totals[kTokenTile * kParts];
    const int64_t units = matrix.padded_cols / 96;
    const uint8_t* packed = matrix.data.data() + block * matrix.block_bytes;
    begin_totals<kParts>(totals, x, 0);
    for (int64_t unit = 0; unit < units; unit += kT5BufferUnits) {
        const int64_t count = std::min(kT5BufferUnits, units - unit);
        unpack_t5(packed + unit * kT5UnitBytes, count, weights, 3 * kT5UnitSteps, kT5UnitSteps);
        multiply_buffer<2>(weights, count * 3 * kT5UnitSteps, x.codes + unit * 3 * kT5UnitSteps * x.tokens, x.tokens, totals);
    }
    store_rows<kParts>(matrix, x, nullptr, totals, block, out, stride);
}

// The three planes of a unit belong to three groups.
void t5_groups(const Matrix& matrix, const Panel& x, int64_t block, float* out, int64_t stride) {
    alignas(64) uint8_t weights[kBufferSteps * kRowBlock * kStep];
    VecInt totals[3][kTokenTile * kParts];
    Vec sums[kTokenTile * kParts] = {};
    const int64_t group_steps = matrix.group / kStep, units = matrix.group / 32;
    const uint8_t* packed = matrix.data.data() + block * matrix.block_bytes;
    for (int64_t group = 0; group < matrix.num_groups; group += 3, packed += units * kT5UnitBytes) {
        for (int p = 0; p < 3; ++p) begin_totals<kParts>(totals[p], x, group + p);
        for (int64_t unit = 0; unit < units; unit += kT5BufferUnits) {
            const int64_t count = std::min(kT5BufferUnits, units - unit), steps = count * kT5UnitSteps;
            unpack_t5(packed + unit * kT5UnitBytes, count, weights, kT5UnitSteps, steps);
            for (int p = 0; p < 3; ++p)
                multiply_buffer<2>(weights + p * steps * kRowBlock * kStep, steps,
                                   x.codes + ((group + p) * group_steps + unit * kT5UnitSteps) * x.tokens, x.tokens, totals[p]);
        }
        for (int p = 0; p < 3; ++p) add_group<kParts>(sums, totals[p], matrix, x, block, group + p);
    }
    store_rows<kParts>(matrix, x, sums, nullptr, block, out, stride);
}

void matmul_t5(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    for (int64_t block = first; block < last; ++block)
        (matrix.group ? t5_groups : t5_rows)(matrix, x, block, out, stride);
}

// The parts of phases, of four steps of one register of a plane; the products and their sums are those of ternary codes.
template <int Axis>
void unpack_parts(const uint8_t* packed, int64_t unit_bytes, int64_t units, uint8_t* weights) {
    auto* out = reinterpret_cast<Bytes*>(weights);
    for (int64_t unit = 0; unit < units; ++unit, packed += unit_bytes, out += 4 * kParts)
        unrolled<4>([&](auto step) TK_INLINED {
            unrolled<kParts>([&](auto part) TK_INLINED {
                const Bytes phases = shifted_right<2 * step.value>(load_bytes(packed + part.value * sizeof(Bytes))) & 3;
                out[step.value * kParts + part.value] = phase_parts<Axis>(phases);
            });
        });
}

// Sums of one plane over a whole block: of each axis with each row of the panel.
template <int Axis>
void add_plane(const Matrix& matrix, const Panel& x, int64_t block, int64_t plane, VecInt* totals) {
    alignas(64) uint8_t weights[kBufferSteps * kRowBlock * kStep];
    constexpr int64_t kUnits = kBufferSteps / 4;
    const int64_t unit_bytes = info(matrix.format).unit_bytes, units = matrix.block_bytes / unit_bytes;
    const uint8_t* packed = matrix.data.data() + block * matrix.block_bytes + plane * kRowBlock * kStep;
    begin_totals<kParts>(totals, x, 0);
    for (int64_t unit = 0, count; unit < units; unit += count) {
        count = std::min(kUnits, units - unit);
        unpack_parts<Axis>(packed + unit * unit_bytes, unit_bytes, count, weights);
        multiply_buffer<2>(weights, count * 4, x.codes + unit * 4 * x.tokens, x.tokens, totals);
    }
}

void matmul_phases(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    VecInt real[kTokenTile * kParts], imaginary[kTokenTile * kParts];
    for (int64_t block = first; block < last; ++block) {
        Vec sums[kTokenTile * kParts] = {};  // [token][re, im][part]
        for (int64_t plane = 0; plane < num_phase_planes(matrix.format); ++plane) {
            add_plane<0>(matrix, x, block, plane, real);
            add_plane<1>(matrix, x, block, plane, imaginary);
            const float sign = plane % 2 ? -1.0f : 1.0f;  // W's input is conjugated
            const float along = matrix.row_scales[2 * plane], across = matrix.row_scales[2 * plane + 1];
            for (int64_t t = 0; t < x.tokens; t += 2)
                for (int h = 0; h < kParts; ++h) {
                    const int64_t with_re = t * kParts + h, with_im = with_re + kParts;
                    Vec &re = sums[with_re], &im = sums[with_im];
                    re = fma(to_float(real[with_re]), splat(along), re);
                    re = fma(to_float(imaginary[with_im]), splat(-sign * across), re);
                    im = fma(to_float(real[with_im]), splat(sign * along), im);
                    im = fma(to_float(imaginary[with_re]), splat(across), im);
                }
        }
        alignas(64) float rows[2 * kRowBlock];
        const int64_t half_rows = matrix.rows / 2, row = block * kRowBlock, count = std::min(kRowBlock, half_rows - row);
        for (int64_t t = 0; t < x.tokens; t += 2) {
            for (int i = 0; i < 2 * kParts; ++i) store(rows + i * kWidth, sums[t * kParts + i] * splat(x.scales[t]));
            for (int64_t half = 0; half < 2; ++half)
                std::copy_n(rows + half * kRowBlock, count, out + t / 2 * stride + half * half_rows + row);
        }
    }
}

template <typename Unpack>
void matmul(const Matrix& matrix, const Panel& x, int64_t first, int64_t last, float* out, int64_t stride) {
    int64_t block = first;
    if (x.tokens == 1) {
        constexpr int R = kOneTokenBlocks;
        for (; block + R <= last; block += R) packed_tile<Unpack, R, 1>(matrix, x, block, out, stride);
        for (; block < last; ++block) packed_tile<Unpack, 1, 1>(matrix, x, block, out, stride);
    } else if (x.tokens == 2) {
        for (; block + 2 <= last; block += 2) packed_tile<Unpack, 2, 2>(matrix, x, block, out, stride);
        for (; block < last; ++block) packed_tile<Unpack, 1, 2>(matrix, x, block, out, stride);
    }
    for (; block < last; ++block) buffered_block<Unpack>(matrix, x, block, out, stride);
}

}  // namespace
}  // namespace tk

#define TK_MATMULS matmul<UnpackT2>, matmul_t5, matmul<UnpackQ4>, matmul<UnpackQ6>, matmul<UnpackQ8>, matmul_phases, matmul_phases
