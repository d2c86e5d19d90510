// The softmax of one block of tokens and the fold of two (attention.h), on short vectors.
//
// Both products, queries with keys and probabilities with values, are one loop: a tile of rows, whose sums stay in registers,
// over tiles of 16 numbers. Each row has sums of its own in a fixed order, so that tiling changes nothing, to the bit.

#include <algorithm>
#include <limits>
#include <utility>

#include "attention.h"
#include "kernels.h"
#include "vec.h"

namespace tk {
namespace {

// How a cache stores numbers and multiplies them. `kStep` neighbouring numbers of a lane lie side by side, and so do the factors
// that they are multiplied with.
template <typename T>
struct PlainCache {
    using Element = T;
    using Factor = float;
    using Sum = Vec;
    static constexpr int kStep = 1;
    static constexpr int64_t kRoom = 1;  // floats are factors as they are
    static const float* factors(const float* x, int64_t, Factor*, float* scale) {
        *scale = 1;
        return x;
    }
    static Vec value(Vec sum, float) { return sum; }
    static Vec factor(const float* x) { return splat(*x); }
    static Vec add(Vec sum, Vec factor, Vec numbers) { return fma(factor, numbers, sum); }
};
struct FloatCache : PlainCache<float> {
    static Vec read(const float* x) { return load(x); }
};
struct HalfCache : PlainCache<uint16_t> {
    static Vec read(const uint16_t* x) { return load_half(x); }
};

// int8 numbers times factors of 16 bits, in pairs, is twice as fast as float32. Factors are rounded to 1 / 65534 of their
// row's largest; sums are exact: 127 * 32767 * 512 fits 32 bits.
struct Int8Cache {
    using Element = int8_t;
    using Factor = int16_t;
    using Sum = VecInt;
    static constexpr int kStep = 2;
    static constexpr int64_t kRoom = kMostInt8HeadDim;
    static const int16_t* factors(const float* x, int64_t size, Factor* room, float* scale) {
        constexpr float kLeast = 1e-34f;  // the inverse of less would be infinite
        VecInt most{};
        for (int64_t i = 0; i < size; i += kWidth) most = max_int(most, magnitudes(load(x + i)));
        const float largest_factor = largest_bits(most);
        if (!is_finite(largest_factor) || largest_factor < kLeast) {
            std::fill_n(room, size, Factor{0});
            *scale = is_finite(largest_factor) ? 0 : std::numeric_limits<float>::quiet_NaN();
            return room;
        }
        const float inverse = 32767 / largest_factor;
        for (int64_t i = 0; i < size; i += kWidth) store_narrowed(room + i, to_int(round_even(load(x + i) * inverse)));
        *scale = largest_factor / 32767;
        return room;
    }
    static Vec value(VecInt sum, float scale) { return to_float(sum) * scale; }
    static VecInt factor(const int16_t* x) {
        int32_t pair;
        std::memcpy(&pair, x, sizeof pair);
        return pair - VecInt{};
    }
    static VecPairs read(const int8_t* x) { return widened_pairs(x); }
    static VecInt add(VecInt sum, VecInt factor, VecPairs numbers) { return add_products(sum, (VecPairs)factor, numbers); }
};

constexpr int kTileVecs = kTileLanes / kWidth;
// Rows and tiles whose sums, with the numbers of a step, fit 16 registers (32 on AVX-512).
constexpr int kMaxRows = kWidth == 16 ? 8 : kWidth == 8 ? 6 : 4;
template <int R>
constexpr int kTiles = kWidth == 16 || R <= 2 ? 2 : 1;

// sums[r] += factors[r * stride + i] * row i of the tiles, for each i < steps. Memory is slow: each step asks for its part of
// `ahead`, as many tiles of the next block, which lie side by side. Into the second cache: the first has too few misses under
// way at once for memory's latency, and hides that of the second without being asked.
template <typename Cache, int R, int T>
TK_INLINE void multiply_tiles(const typename Cache::Factor* factors, int64_t stride, const typename Cache::Element* tiles, int64_t tile_size,
                              int64_t steps, const typename Cache::Element* ahead, typename Cache::Sum (&sums)[R][T * kTileVecs]) {
    constexpr int64_t kLine = 64 / int64_t{sizeof(typename Cache::Element)};
    for (int64_t i = 0; i < steps; i += Cache::kStep) {
        for (int64_t line = 0; line < T * kTileLanes * Cache::kStep; line += kLine) __builtin_prefetch(ahead + i * T * kTileLanes + line, 0, 2);
        decltype(Cache::read(tiles)) row[T * kTileVecs];
        for (int t = 0; t < T; ++t)
            for (int v = 0; v < kTileVecs; ++v)
                row[t * kTileVecs + v] = Cache::read(tiles + t * tile_size + i * kTileLanes + v * kWidth * Cache::kStep);
        for (int r = 0; r < R; ++r) {
            const auto factor = Cache::factor(factors + r * stride + i);
            for (int v = 0; v < T * kTileVecs; ++v) sums[r][v] = Cache::add(sums[r][v], factor, row[v]);
        }
    }
}

// Calls body(Int<T>, tile) for tiles [0, count), `kMost` at a time while there are as many.
template <int kMost, typename Body>
TK_INLINE void over_tiles(int64_t count, const Body& body) {
    int64_t tile = 0;
    for (; tile + kMost <= count; tile += kMost) body(std::integral_constant<int, kMost>{}, tile);
    if constexpr (kMost > 1)
        if (tile < count) body(std::integral_constant<int, 1>{}, tile);
}

// Tokens [from, to) of a block.
struct Seen {
    int64_t from, to;
};

inline Seen seen_in_block(const AttentionJob& job, int64_t row, int64_t block) {
    const auto place = [&](int64_t token) { return std::clamp(token - block * kBlockTokens, int64_t{0}, kBlockTokens); };
    return {job.window ? place(job.visible[row] - job.window) : 0, place(job.visible[row])};
}

// Scores [first, last) of a row become exp(score - most), zero where it does not see the token; gives their sum. That is NaN where a
// seen score is NaN or +infinite.
inline float soften(float* scores, int64_t first, int64_t last, const Seen& seen, float* largest_score) {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    std::fill(scores + first, scores + std::clamp(seen.from, first, last), kNever);
    std::fill(scores + std::clamp(seen.to, first, last), scores + last, kNever);
    Vec highest = splat(kNever);
    for (int64_t t = first; t < last; t += kWidth) highest = max(load(scores + t), highest);
    *largest_score = largest(highest);
    const float most = *largest_score == kNever ? 0 : *largest_score;
    Vec total{};
    for (int64_t t = first; t < last; t += kWidth) {
        const Vec x = load(scores + t) - most;
        const Vec p = select(x < -87.0f, Vec{}, exp_in_range(x));  // NaN of NaN
        total += p;
        store(scores + t, p);
    }
    return sum(total);
}

template <typename Cache, int R>
void attend_rows(const AttentionJob& job, int64_t block, int64_t row, const Softmax& out) {
    using Element = typename Cache::Element;
    Seen seen[R], any{kBlockTokens, 0};
    for (int r = 0; r < R; ++r) {
        seen[r] = seen_in_block(job, row + r, block);
        if (seen[r].from < seen[r].to) any = {std::min(any.from, seen[r].from), std::max(any.to, seen[r].to)};
    }
    if (any.from >= any.to) return std::fill(out.totals + row, out.totals + row + R, 0.0f);
    const int64_t first = any.from / kPageTokens, last = ceil_div(any.to, kPageTokens);
    const PageView* pages = job.pages + block * kBlockPages;
    const int64_t head_dim = job.head_dim, key_tile = head_dim * kTileLanes;
    constexpr int64_t kValueTile = kPageTokens * kTileLanes;
    const auto keys = [&](int64_t page) { return static_cast<const Element*>(pages[page].keys); };
    const auto values = [&](int64_t page) { return static_cast<const Element*>(pages[page].values); };
    const int64_t distance = block + 1 < job.num_blocks ? kBlockPages : 0;
    const auto ahead_of = [&](int64_t page) { return page + distance; };

    alignas(64) float scores[R][kBlockTokens];
    alignas(64) typename Cache::Factor room[R][Cache::kRoom];
    float scale[R];
    const auto factors_of = [&](const float* x, int64_t stride, int64_t offset, int64_t size) {
        const typename Cache::Factor* first_row = nullptr;
        for (int r = R - 1; r >= 0; --r) first_row = Cache::factors(x + r * stride + offset, size, room[r], &scale[r]);
        return first_row;
    };
    constexpr bool kCopied = Cache::kRoom > 1;

    const typename Cache::Factor* queries = factors_of(job.queries + row * head_dim, head_dim, 0, head_dim);
    for (int64_t page = first; page < last; ++page) {
        const Element* ahead = keys(ahead_of(page));
        for (int64_t tile = 0; tile < kPageTokens / kTileLanes; tile += kTiles<R>) {  // which divides it
            typename Cache::Sum sums[R][kTiles<R> * kTileVecs] = {};
            multiply_tiles<Cache, R, kTiles<R>>(queries, kCopied ? Cache::kRoom : head_dim, keys(page) + tile * key_tile, key_tile, head_dim,
                                                ahead + tile * key_tile, sums);
            for (int v = 0; v < kTiles<R> * kTileVecs; ++v) {
                const int64_t token = tile * kTileLanes + v * kWidth;
                for (int r = 0; r < R; ++r) {
                    const float* scales = pages[page].key_scales;
                    const Vec score = Cache::value(sums[r][v], scale[r]);
                    store(scores[r] + page * kPageTokens + token, scales ? score * load(scales + token) : score);
                }
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        out.totals[row + r] = soften(scores[r], first * kPageTokens, last * kPageTokens, seen[r], out.most + row + r);
        for (int64_t page = first; page < last; ++page)
            if (const float* scales = pages[page].value_scales)
                for (int64_t t = 0; t < kPageTokens; t += kWidth) {
                    float* p = scores[r] + page * kPageTokens + t;
                    store(p, load(p) * load(scales + t));
                }
    }
    const typename Cache::Factor* weights = factors_of(scores[0], kBlockTokens, first * kPageTokens, (last - first) * kPageTokens);
    over_tiles<kTiles<R>>(head_dim / kTileLanes, [&](auto T, int64_t tile) TK_INLINED {
        typename Cache::Sum sums[R][T.value * kTileVecs] = {};
        for (int64_t page = first; page < last; ++page)
            multiply_tiles<Cache, R, T.value>(weights + (page - first) * kPageTokens, kCopied ? Cache::kRoom : kBlockTokens,
                                              values(page) + tile * kValueTile, kValueTile, std::min(kPageTokens, any.to - page * kPageTokens),
                                              values(ahead_of(page)) + tile * kValueTile, sums);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < T.value * kTileVecs; ++v)
                store(out.sums + (row + r) * head_dim + tile * kTileLanes + v * kWidth, Cache::value(sums[r][v], scale[r]));
    });
}

// Rows in tiles as equal as they can be, of at most kMaxRows.
template <typename Cache>
void attend(const AttentionJob& job, int64_t block, const Softmax& out) {
    const int64_t tiles = ceil_div(job.rows, kMaxRows);
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t row = job.rows * tile / tiles, count = job.rows * (tile + 1) / tiles - row;
        [&]<int... I>(std::integer_sequence<int, I...>) {
            (void)((count == I + 1 && (attend_rows<Cache, I + 1>(job, block, row, out), true)) || ...);
        }(std::make_integer_sequence<int, kMaxRows>{});
    }
}

void attend_block(const AttentionJob& job, int64_t block, const Softmax& out) {
    switch (job.type) {
        case CacheType::f32: return attend<FloatCache>(job, block, out);
        case CacheType::f16: return attend<HalfCache>(job, block, out);
        case CacheType::int8: return attend<Int8Cache>(job, block, out);
    }
}

void fold(const Softmax& later, int64_t rows, int64_t head_dim, const Softmax& sofar) {
    for (int64_t r = 0; r < rows; ++r) {
        const float* given = later.sums + r * head_dim;
        float* sums = sofar.sums + r * head_dim;
        if (later.totals[r] == 0) continue;
        if (sofar.totals[r] == 0) {
            std::copy_n(given, head_dim, sums);
            sofar.totals[r] = later.totals[r];
            sofar.most[r] = later.most[r];
            continue;
        }
        const float most = std::max(sofar.most[r], later.most[r]);
        const Vec kept = exp(splat(sofar.most[r] - most)), gained = exp(splat(later.most[r] - most));
        for (int64_t d = 0; d < head_dim; d += kWidth) store(sums + d, fma(load(given + d), gained, load(sums + d) * kept));
        sofar.totals[r] = sofar.totals[r] * kept[0] + later.totals[r] * gained[0];
        sofar.most[r] = most;
    }
}

}  // namespace
}  // namespace tk
