#include "roofline.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tk {

Seconds time_repeats(int repeats, const std::function<void()>& work) {
    using Clock = std::chrono::steady_clock;
    Seconds seconds;
    for (int i = 0; i <= repeats; ++i) {
        const auto start = Clock::now();
        work();
        if (i) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    return seconds;
}

namespace {

// Compiled for several instruction sets: the widest loads that the processor has.
typedef int64_t Line __attribute__((vector_size(64)));

TK_INLINE void read_lines(const Line* lines, int64_t count) {
    Line sums[4] = {};
    for (int64_t i = 0; i + 4 <= count; i += 4)
        for (int j = 0; j < 4; ++j) sums[j] ^= lines[i + j];
    const Line sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    asm volatile("" : : "r"(&sum) : "memory");  // somebody might look
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void read_avx512(const Line* lines, int64_t count) { read_lines(lines, count); }
__attribute__((target("avx2"))) void read_avx2(const Line* lines, int64_t count) { read_lines(lines, count); }
#endif
void read_plain(const Line* lines, int64_t count) { read_lines(lines, count); }

void read(const Line* lines, int64_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return read_avx512(lines, count);
    if (__builtin_cpu_supports("avx2")) return read_avx2(lines, count);
#endif
    read_plain(lines, count);
}

}  // namespace

Seconds time_reads(Pool& pool, int64_t bytes, int64_t passes, int repeats) {
    constexpr int64_t kPiece = int64_t{4} << 20;
    const int64_t lines = bytes / int64_t{sizeof(Line)}, threads = pool.num_threads();
    const int64_t lines_per_piece = passes == 1 ? std::min(lines, kPiece / int64_t{sizeof(Line)}) : lines;
    const int64_t pieces = threads * ceil_div(lines, lines_per_piece);
    Buffer<Line> buffer(pieces * lines_per_piece);
    std::memset(static_cast<void*>(buffer.data()), 1, static_cast<size_t>(buffer.size()) * sizeof(Line));
    return time_repeats(repeats, [&] {
        pool.run(pieces, [&](int64_t piece, int) {
            for (int64_t pass = 0; pass < passes; ++pass) read(buffer.data() + piece * lines_per_piece, lines_per_piece);
        });
    });
}

namespace {

// Loops of independent instructions on registers. `macs`: multiply-adds of a round.
struct Peak {
    int64_t macs;
    void (*loop)(int64_t rounds);
};

constexpr int kRegisters = 12;

// The operands must stay in registers and the instructions in the loop: hence assembly.
#define TK_PEAK_LOOP(Vector, constraint, first, second, instructions)                                \
    Vector sums[kRegisters] = {};                                                                    \
    for (int64_t round = 0; round < rounds; ++round)                                                 \
        _Pragma("GCC unroll 12") for (int i = 0; i < kRegisters; ++i)                                \
            asm volatile(instructions : "+" constraint(sums[i]) : constraint(first), constraint(second));

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl"))) void vnni512(int64_t rounds) {
    const __m512i x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(1);
    TK_PEAK_LOOP(__m512i, "v", x, w, "vpdpbusd %2, %1, %0")
}
__attribute__((target("avx2"))) void vnni256(int64_t rounds) {
    const __m256i x = _mm256_set1_epi8(3), w = _mm256_set1_epi8(1);
    TK_PEAK_LOOP(__m256i, "x", x, w, "%{vex%} vpdpbusd %2, %1, %0")
}
__attribute__((target("avx2"))) void maddubs256(int64_t rounds) {
    const __m256i x = _mm256_set1_epi8(3), w = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
    __m256i sums[kRegisters] = {};
    for (int64_t round = 0; round < rounds; ++round)
        _Pragma("GCC unroll 12") for (int i = 0; i < kRegisters; ++i) {
            __m256i product;
            asm volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
                         : "+x"(sums[i]), "=&x"(product)
                         : "x"(x), "x"(w), "x"(ones));
        }
}
__attribute__((target("avx512f"))) void fma512(int64_t rounds) {
    const __m512 x = _mm512_set1_ps(1e-9f), w = _mm512_set1_ps(1);
    TK_PEAK_LOOP(__m512, "v", x, w, "vfmadd231ps %2, %1, %0")
}
__attribute__((target("avx2,fma"))) void fma256(int64_t rounds) {
    const __m256 x = _mm256_set1_ps(1e-9f), w = _mm256_set1_ps(1);
    TK_PEAK_LOOP(__m256, "x", x, w, "vfmadd231ps %2, %1, %0")
}
Peak find_peak(bool integers) {
    const std::string isa = current_isa().name;
    if (isa.rfind("avx512", 0) == 0) return integers ? Peak{64, vnni512} : Peak{16, fma512};
    if (isa == "avx2_vnni") return integers ? Peak{32, vnni256} : Peak{8, fma256};
    if (isa == "avx2") return integers ? Peak{32, maddubs256} : Peak{8, fma256};
    return {0, nullptr};
}
#elif defined(__aarch64__)
#if defined(__clang__)  // 14 ignores GCC's spelling without a word, and its assembler then refuses the instruction
#define TK_DOTPROD "dotprod"
#else
#define TK_DOTPROD "+dotprod"
#endif
__attribute__((target(TK_DOTPROD))) void sdot(int64_t rounds) {
    const int8x16_t x = vdupq_n_s8(3), w = vdupq_n_s8(1);
    TK_PEAK_LOOP(int32x4_t, "w", x, w, "sdot %0.4s, %1.16b, %2.16b")
}
void fmla(int64_t rounds) {
    const float32x4_t x = vdupq_n_f32(1e-9f), w = vdupq_n_f32(1);
    TK_PEAK_LOOP(float32x4_t, "w", x, w, "fmla %0.4s, %1.4s, %2.4s")
}
Peak find_peak(bool integers) {
    if (std::string(current_isa().name) != "neon_dot") return {0, nullptr};
    return integers ? Peak{16, sdot} : Peak{4, fmla};
}
#else
Peak find_peak(bool) { return {0, nullptr}; }
#endif

}  // namespace

int64_t peak_macs(bool integers) { return kRegisters * find_peak(integers).macs; }

Seconds time_peak(Pool& pool, bool integers, int64_t rounds, int repeats) {
    const Peak peak = find_peak(integers);
    if (peak.loop == nullptr) throw std::invalid_argument(std::string("no peak loop for instruction set ") + current_isa().name);
    return time_repeats(repeats, [&] { pool.run(pool.num_threads(), [&](int64_t, int) { peak.loop(rounds); }); });
}

Seconds time_products(Pool& pool, const std::vector<std::shared_ptr<Matrix>>& matrices, const float* x, int64_t tokens, Precision precision,
                      int repeats) {
    Activations activations;
    std::vector<const Matrix*> all;
    for (const auto& matrix : matrices) all.push_back(matrix.get());
    activations.prepare(tokens, all, precision);
    int64_t stride = 0;
    for (const Matrix* matrix : all) stride = std::max(stride, padded_rows_of(*matrix));
    for (int64_t t = 0; t < tokens; ++t) activations.set(t, x + t * all.front()->cols);
    Buffer<float> out(activations.padded_rows() * stride);
    return time_repeats(repeats, [&] {
        for (const Matrix* matrix : all) multiply(pool, activations, {{matrix, out.data(), padded_rows_of(*matrix)}});
    });
}

int64_t values_of_y(const std::string& kernel, int64_t tokens, int64_t size) {
    if (kernel == "rms_norm" || kernel == "rope") return size;
    if (kernel == "silu_gate" || kernel == "relu2_gate") return tokens * size;
    if (kernel == "quantize") return 0;
    throw std::invalid_argument("unknown kernel '" + kernel + "'; known: rms_norm, rope, silu_gate, relu2_gate, quantize");
}

Seconds time_rows(Pool& pool, const std::string& kernel, const float* x, const float* y, int64_t tokens, int64_t size, int repeats, float* out) {
    const KernelTable& table = kernels();
    const int64_t padded = round_up(size, 64);
    Buffer<uint32_t> codes(tokens * padded / kStep);
    Buffer<int32_t> sums(tokens * padded / 16);
    Buffer<float> inverse(tokens);
    std::memcpy(out, x, static_cast<size_t>(tokens * size) * sizeof(float));
    const auto row = [&](int64_t t) {
        if (kernel == "rms_norm") table.rms_norm(x + t * size, y, size, 1e-5f, out + t * size);
        else if (kernel == "rope") table.rope(out + t * size, y, y + size / 2, size);
        else if (kernel == "silu_gate") table.silu_gate(x + t * size, y + t * size, size, out + t * size);
        else if (kernel == "relu2_gate") table.relu2_gate(x + t * size, y + t * size, size, out + t * size);
        else inverse[t] = table.quantize(x + t * size, size, padded, codes.data() + t * padded / kStep, 1, sums.data() + t * padded / 16);
    };
    const auto all = [&] { pool.run(tokens, [&](int64_t t, int) { row(t); }); };
    const Seconds seconds = time_repeats(repeats, all);
    if (kernel == "rope") {  // in place: every repeat turned further
        std::memcpy(out, x, static_cast<size_t>(tokens * size) * sizeof(float));
        all();
    }
    if (kernel == "quantize") {
        const auto* values = reinterpret_cast<const int8_t*>(codes.data());
        for (int64_t i = 0; i < tokens * size; ++i) out[i] = static_cast<float>(values[i / size * padded + i % size]) / inverse[i / size];
    }
    return seconds;
}

Seconds time_attention(Pool& pool, const AttentionSize& size, const float* queries, const float* keys, const float* values, CacheType type,
                       int repeats, float* out) {
    const int64_t num_pages = ceil_div(size.tokens, kPageTokens), context = size.tokens - size.new_tokens;
    KvCache cache(size.layers, size.kv_heads, size.head_dim, num_pages, type);
    for (int64_t layer = 0; layer < size.layers; ++layer)
        for (int64_t t = 0; t < size.tokens; ++t)
            for (int64_t h = 0; h < size.kv_heads; ++h) {
                const int64_t at = (t * size.kv_heads + h) * size.head_dim;
                cache.store(layer, t / kPageTokens, h, t % kPageTokens, keys + at, values + at);
            }
    std::vector<int32_t> pages(num_pages);
    std::iota(pages.begin(), pages.end(), 0);
    std::vector<Span> spans;
    for (int64_t t = 0; t < size.new_tokens; t += kTokensPerSpan)
        spans.push_back({t, std::min(kTokensPerSpan, size.new_tokens - t), context + t, size.tokens, pages.data()});
    const int64_t stride = size.heads * size.head_dim;
    const Heads heads{size.heads, queries, stride, 1 / std::sqrt(static_cast<float>(size.head_dim)), out, stride};
    Attention attention;
    return time_repeats(repeats, [&] {
        for (int64_t layer = 0; layer < size.layers; ++layer) attention.run(pool, cache, layer, {1, size.window}, spans, heads);
    });
}

}  // namespace tk
