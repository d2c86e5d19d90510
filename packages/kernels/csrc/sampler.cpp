// See sampler.h for what is computed. How:
//
// A row is cut into blocks of 128 logits. `block_maxima` costs one pass and serves everybody: the greedy
// choice looks into one block, top-k takes the k-th largest block maximum as a safe cut-off (at least k
// logits reach it), top-p gathers what lies above a cut-off and lowers it at most twice, then finds its
// last token by a histogram of masses instead of sorting.
// Vectors are GCC/Clang vector types of 8 floats, which any target can lower, and the three passes are
// cloned for AVX2. The build compiles without contraction of multiply-adds (-ffp-contract=off); there is no AVX-512
// clone because two passes over 0.5 MB in the cache gain nothing by it.
#include "sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define SAMPLER_CLONES __attribute__((target_clones("avx2", "default"), noinline))
#else
#define SAMPLER_CLONES
#endif
#define SAMPLER_INLINE inline __attribute__((always_inline))

namespace tk {
namespace {

constexpr std::size_t kBlock = 128;
constexpr std::size_t kLanes = 8;
constexpr std::size_t kBins = 512;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5f;
constexpr double kGrid = 1.5 * (1 << 18);  // adding and subtracting it rounds to multiples of 2^-34

typedef float Floats __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef float HalfFloats __attribute__((vector_size(kLanes * 2)));
typedef double Doubles __attribute__((vector_size(kLanes * 4)));

// exp(x) for x <= 0, zero below -80. Cephes' reduction and polynomial; relative error < 2e-7.
SAMPLER_INLINE Floats exp_nonpositive(Floats x) {
    const Ints in_range = x >= -80.0f;
    x = in_range ? x : Floats{} - 80.0f;
    const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
    const Floats n = shifted - 12582912.0f;
    const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const Ints scaled = (Ints)p + (((Ints)shifted - 0x4B400000) << 23);  // p * 2^n
    return (Floats)(scaled & in_range);
}

struct Masses {
    Doubles low, high;  // of lanes 0..3 and 4..7
};

SAMPLER_INLINE Masses mass_of(Floats logits, float max, float inverse_temperature) {
    const Floats e = exp_nonpositive((logits - max) * inverse_temperature);
    HalfFloats low, high;
    std::memcpy(&low, &e, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&e) + sizeof low, sizeof high);
    return {(__builtin_convertvector(low, Doubles) + kGrid) - kGrid,
            (__builtin_convertvector(high, Doubles) + kGrid) - kGrid};
}

// Maximum of each block of x[0 .. n); n is a multiple of kBlock. False if there is a NaN.
SAMPLER_CLONES bool block_maxima(const float* x, std::size_t n, float* maxima) {
    Ints nan{};
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
        Floats max = *reinterpret_cast<const Floats*>(x + begin);
        nan |= max != max;
        for (std::size_t i = begin + kLanes; i < begin + kBlock; i += kLanes) {
            const Floats v = *reinterpret_cast<const Floats*>(x + i);
            nan |= v != v;
            max = v > max ? v : max;
        }
        float best = max[0];
        for (std::size_t lane = 1; lane < kLanes; ++lane) best = max[lane] > best ? max[lane] : best;
        maxima[begin / kBlock] = best;
    }
    std::int32_t any = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) any |= nan[lane];
    return any == 0;
}

// Sum of the masses of each block; n is a multiple of kBlock. Exact, so lanes do not matter.
SAMPLER_CLONES void block_masses(const float* x, std::size_t n, float max, float inverse_temperature,
                                 double* masses) {
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
        Doubles sum{};
        for (std::size_t i = begin; i < begin + kBlock; i += kLanes) {
            const Masses mass = mass_of(*reinterpret_cast<const Floats*>(x + i), max, inverse_temperature);
            sum += mass.low + mass.high;
        }
        masses[begin / kBlock] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

// The mass of each logit; n is a multiple of kLanes.
SAMPLER_CLONES void masses(const float* x, std::size_t n, float max, float inverse_temperature, double* out) {
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Masses mass = mass_of(*reinterpret_cast<const Floats*>(x + i), max, inverse_temperature);
        std::memcpy(out + i, &mass.low, sizeof mass.low);
        std::memcpy(out + i + kLanes / 2, &mass.high, sizeof mass.high);
    }
}

struct Candidate {
    float logit;
    std::int32_t id;
    double mass;
};

bool ranks_before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Memory of one thread, kept from row to row: fresh pages would cost more than the arithmetic.
struct Scratch {
    std::vector<float> maxima, penalized, gathered;
    std::vector<double> masses;
    std::vector<Candidate> candidates, selection;
    std::vector<std::uint64_t> seen;
};

// The logits of a row as whole blocks: the tail is padded with -inf in a copy of its own.
class Logits {
public:
    Logits(const float* data, std::size_t vocab) : data_(data), vocab_(vocab), whole_(vocab / kBlock * kBlock) {
        if (whole_ == vocab_) return;
        std::fill(tail_, tail_ + kBlock, -kInf);
        std::copy(data_ + whole_, data_ + vocab_, tail_);
    }
    std::size_t vocab() const { return vocab_; }
    std::size_t num_blocks() const { return (vocab_ + kBlock - 1) / kBlock; }
    const float* block(std::size_t b) const { return b * kBlock < whole_ ? data_ + b * kBlock : tail_; }
    float operator[](std::size_t id) const { return data_[id]; }

    bool find_maxima(std::vector<float>& maxima) const {
        maxima.resize(num_blocks());
        bool valid = block_maxima(data_, whole_, maxima.data());
        if (whole_ != vocab_) valid &= block_maxima(tail_, kBlock, &maxima.back());
        return valid;
    }
    double find_masses(float max, float inverse_temperature, std::vector<double>& masses) const {
        masses.resize(num_blocks());
        block_masses(data_, whole_, max, inverse_temperature, masses.data());
        if (whole_ != vocab_) block_masses(tail_, kBlock, max, inverse_temperature, &masses.back());
        double total = 0.0;
        for (double mass : masses) total += mass;
        return total;
    }

private:
    const float* data_;
    std::size_t vocab_, whole_;
    float tail_[kBlock];
};

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string number(float value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", static_cast<double>(value));
    return text;
}

void check(const SampleRow& row, std::size_t vocab) {
    if (!(row.temperature >= 0.0f) || std::isinf(row.temperature)) {
        fail("temperature must be a finite number >= 0, got " + number(row.temperature));
    }
    if (row.top_k < 0) fail("top_k must be >= 0 (0 = off), got " + std::to_string(row.top_k));
    if (!(row.top_p >= 0.0f && row.top_p <= 1.0f)) fail("top_p must be in [0, 1], got " + number(row.top_p));
    if (!(row.min_p >= 0.0f && row.min_p <= 1.0f)) fail("min_p must be in [0, 1], got " + number(row.min_p));
    if (!(row.repetition_penalty > 0.0f) || std::isinf(row.repetition_penalty)) {
        fail("repetition_penalty must be a finite number > 0, got " + number(row.repetition_penalty));
    }
    if (row.num_logprobs < -1) {
        fail("num_logprobs must be >= 0, or -1 for none, got " + std::to_string(row.num_logprobs));
    }
    for (std::int32_t id : row.history) {
        if (id < 0 || static_cast<std::size_t>(id) >= vocab) {
            fail("history has token " + std::to_string(id) + ", the vocabulary only " + std::to_string(vocab));
        }
    }
}

// Appends the logits >= cut in ascending id; only blocks whose maximum reaches it are read.
void gather(const Logits& logits, const std::vector<float>& maxima, float cut, std::vector<Candidate>& out) {
    out.clear();
    for (std::size_t b = 0; b < maxima.size(); ++b) {
        if (!(maxima[b] >= cut)) continue;
        const float* x = logits.block(b);
        const std::size_t begin = b * kBlock, count = std::min(kBlock, logits.vocab() - begin);
        const std::size_t used = out.size();
        out.resize(used + count);
        Candidate* end = out.data() + used;
        for (std::size_t i = 0; i < count; ++i) {  // no branch: every logit is written, few are kept
            *end = {x[i], static_cast<std::int32_t>(begin + i), 0.0};
            end += x[i] >= cut;
        }
        out.resize(static_cast<std::size_t>(end - out.data()));
    }
}

void keep_through(const Candidate& last, std::vector<Candidate>& candidates) {
    std::erase_if(candidates, [&](const Candidate& c) { return ranks_before(last, c); });
}

// The first k of the ranking, in ascending id. 1 <= k < vocab.
void gather_top_k(const Logits& logits, std::size_t k, Scratch& scratch) {
    float cut = -kInf;
    if (k <= scratch.maxima.size()) {  // k block maxima reach the k-th largest of them
        scratch.gathered = scratch.maxima;
        const auto kth = scratch.gathered.begin() + static_cast<std::ptrdiff_t>(k - 1);
        std::nth_element(scratch.gathered.begin(), kth, scratch.gathered.end(), std::greater<>());
        cut = *kth;
    }
    gather(logits, scratch.maxima, cut, scratch.candidates);
    if (scratch.candidates.size() <= k) return;
    scratch.selection = scratch.candidates;
    const auto kth = scratch.selection.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(scratch.selection.begin(), kth, scratch.selection.end(), ranks_before);
    keep_through(*kth, scratch.candidates);
}

double find_candidate_masses(float max, float inverse_temperature, Scratch& scratch) {
    const std::size_t count = scratch.candidates.size();
    const std::size_t padded = (count + kLanes - 1) / kLanes * kLanes;
    scratch.gathered.assign(padded, -kInf);
    for (std::size_t i = 0; i < count; ++i) scratch.gathered[i] = scratch.candidates[i].logit;
    if (scratch.masses.size() < padded) scratch.masses.resize(padded);
    masses(scratch.gathered.data(), padded, max, inverse_temperature, scratch.masses.data());
    double total = 0.0;
    for (std::size_t i = 0; i < count; ++i) total += scratch.candidates[i].mass = scratch.masses[i];
    return total;
}

const Candidate& median_of_three(const Candidate& a, const Candidate& b, const Candidate& c) {
    if (ranks_before(b, a)) return ranks_before(c, b) ? b : (ranks_before(c, a) ? c : a);
    return ranks_before(c, a) ? a : (ranks_before(c, b) ? c : b);
}

// Last candidate of the shortest prefix of the ranking with at least `wanted` mass (the least likely one
// if all have less). Quickselect by mass; O(n), reorders [begin, end).
Candidate last_of_mass(Candidate* begin, Candidate* end, double wanted) {
    for (int round = 0; end - begin > 64 && round < 64; ++round) {
        const std::ptrdiff_t n = end - begin;
        const Candidate pivot = median_of_three(
            median_of_three(begin[0], begin[n / 8], begin[n / 4]),
            median_of_three(begin[3 * n / 8], begin[n / 2], begin[5 * n / 8]),
            median_of_three(begin[3 * n / 4], begin[7 * n / 8], begin[n - 1]));
        Candidate* middle =
            std::partition(begin, end, [&](const Candidate& c) { return !ranks_before(pivot, c); });
        double mass = 0.0;
        for (const Candidate* c = begin; c != middle; ++c) mass += c->mass;
        if (mass >= wanted) {
            end = middle;  // the pivot is in the middle of nine distinct candidates: both sides shrink
        } else {
            wanted -= mass;
            begin = middle;
        }
    }
    std::sort(begin, end, ranks_before);
    for (const Candidate* c = begin; c != end; ++c) {
        wanted -= c->mass;
        if (wanted <= 0.0) return *c;
    }
    return end[-1];
}

// Reduces `candidates` to top-p. A histogram of mass over the logits' range tells in which bin the last
// survivor lies (bins are monotonous in the logit, sums exact); only that bin is searched.
void keep_top_p(double wanted, float max, Scratch& scratch) {
    float lowest = max;
    for (const Candidate& c : scratch.candidates) {
        if (c.mass > 0.0) lowest = std::min(lowest, c.logit);
    }
    // In double: the range may be a denormal, or more than a float holds.
    const double top = max, range = top - lowest;
    const double bins_per_unit = range > 0.0 ? (kBins - 1) / range : 0.0;
    const auto bin_of = [&](const Candidate& c) {
        return c.mass > 0.0 ? std::min(static_cast<std::size_t>((top - c.logit) * bins_per_unit), kBins - 1) : kBins;
    };
    double mass[kBins + 1] = {};
    for (const Candidate& c : scratch.candidates) mass[bin_of(c)] += c.mass;
    std::size_t bin = 0;
    while (mass[bin] < wanted && bin < kBins - 1) wanted -= mass[bin++];
    scratch.selection.clear();
    for (const Candidate& c : scratch.candidates) {
        if (bin_of(c) == bin) scratch.selection.push_back(c);
    }
    Candidate* data = scratch.selection.data();
    keep_through(last_of_mass(data, data + scratch.selection.size(), wanted), scratch.candidates);
}

// A cut-off that every logit within `nats` of the maximum reaches, whatever the rounding.
float cut_below(float max, double nats, float inverse_temperature) {
    return std::nextafter(static_cast<float>(max - nats / inverse_temperature), -kInf);
}

// Candidates of top-p over the whole vocabulary. Logits under (1 - p) * total / vocab cannot add up to what
// may be left out, and masses more than 25 nats down are zero: the last cut-off is always wide enough (one
// nat of it is for the rounding of masses). Mostly 4 nats are.
void gather_top_p(const Logits& logits, float max, float inverse_temperature, float top_p, Scratch& scratch) {
    const double total = logits.find_masses(max, inverse_temperature, scratch.masses);
    const double wanted = top_p * total;
    const double enough = 1.0 - std::log((1.0 - top_p) * total / static_cast<double>(logits.vocab()));
    for (double limit : {4.0, 9.0, 25.0}) {
        const double nats = enough < 2.0 * limit ? enough : limit;
        gather(logits, scratch.maxima, cut_below(max, nats, inverse_temperature), scratch.candidates);
        if (find_candidate_masses(max, inverse_temperature, scratch) >= wanted) break;
    }
    keep_top_p(wanted, max, scratch);
}

std::int32_t draw_candidate(const Scratch& scratch, double uniform) {
    double total = 0.0, running = 0.0;
    for (const Candidate& c : scratch.candidates) total += c.mass;
    for (const Candidate& c : scratch.candidates) {
        running += c.mass;
        if (running > uniform * total) return c.id;
    }
    fail("no token could be drawn");  // not reached: uniform < 1, so uniform * total < total
}

// Draws from the whole vocabulary: first the block, then the token in it.
std::int32_t draw_any(const Logits& logits, float max, float inverse_temperature, double uniform,
                      Scratch& scratch) {
    const double target = uniform * logits.find_masses(max, inverse_temperature, scratch.masses);
    double running = 0.0;
    std::size_t b = 0;  // the bounds of both loops: above 2^19 tokens the sums may be off in the last bit
    while (running + scratch.masses[b] <= target && b + 1 < scratch.masses.size()) running += scratch.masses[b++];
    double mass[kBlock];
    masses(logits.block(b), kBlock, max, inverse_temperature, mass);
    const std::size_t count = std::min(kBlock, logits.vocab() - b * kBlock);
    std::size_t i = 0;
    while ((running += mass[i]) <= target && i + 1 < count) ++i;
    return static_cast<std::int32_t>(b * kBlock + i);
}

std::int32_t argmax(const Logits& logits, const std::vector<float>& maxima, float max) {
    const auto b = static_cast<std::size_t>(std::find(maxima.begin(), maxima.end(), max) - maxima.begin());
    const float* x = logits.block(b);
    return static_cast<std::int32_t>(b * kBlock + static_cast<std::size_t>(std::find(x, x + kBlock, max) - x));
}

std::int32_t choose(const SampleRow& row, const Logits& logits, Scratch& scratch) {
    const float max = *std::max_element(scratch.maxima.begin(), scratch.maxima.end());
    if (row.temperature < kGreedyBelow || row.top_k == 1) return argmax(logits, scratch.maxima, max);
    const float inverse_temperature = 1.0f / row.temperature;
    const double uniform = sample_uniform(row.seed, row.counter);
    const bool has_top_k = row.top_k > 0 && static_cast<std::size_t>(row.top_k) < logits.vocab();
    if (has_top_k) {
        gather_top_k(logits, static_cast<std::size_t>(row.top_k), scratch);
        const double total = find_candidate_masses(max, inverse_temperature, scratch);
        if (row.top_p < 1.0f) keep_top_p(row.top_p * total, max, scratch);
    } else if (row.top_p < 1.0f) {
        gather_top_p(logits, max, inverse_temperature, row.top_p, scratch);
    } else if (row.min_p > 0.0f) {
        const double nats = 1e-3 - std::log(static_cast<double>(row.min_p));
        gather(logits, scratch.maxima, cut_below(max, nats, inverse_temperature), scratch.candidates);
        find_candidate_masses(max, inverse_temperature, scratch);
    } else {
        return draw_any(logits, max, inverse_temperature, uniform, scratch);
    }
    std::erase_if(scratch.candidates, [&](const Candidate& c) { return c.mass < row.min_p; });
    return draw_candidate(scratch, uniform);
}

// The row's logits with the penalty, in scratch; each token of the history once.
const float* penalize(const SampleRow& row, std::size_t vocab, Scratch& scratch) {
    scratch.penalized.assign(row.logits, row.logits + vocab);
    scratch.seen.assign((vocab + 63) / 64, 0);
    for (std::int32_t id : row.history) {
        std::uint64_t& word = scratch.seen[static_cast<std::size_t>(id) / 64];
        const std::uint64_t bit = std::uint64_t{1} << (id % 64);
        if (word & bit) continue;
        word |= bit;
        float& x = scratch.penalized[static_cast<std::size_t>(id)];
        x = x > 0.0f ? x / row.repetition_penalty : x * row.repetition_penalty;
    }
    return scratch.penalized.data();
}

void check_logits(bool no_nan, float max) {
    if (!no_nan) fail("the logits have a NaN");
    if (max == kInf) fail("the logits have a +inf");
    if (max == -kInf) fail("all logits are -inf: no token is allowed");
}

// log(sum(exp(raw logits))), and the alternatives into `result`.
double report_alternatives(const SampleRow& row, const Logits& raw, float max, SampleResult& result,
                           Scratch& scratch) {
    const double log_sum = max + std::log(raw.find_masses(max, 1.0f, scratch.masses));
    const std::size_t count = std::min(static_cast<std::size_t>(row.num_logprobs), raw.vocab());
    if (count == 0) return log_sum;
    if (count < raw.vocab()) {
        gather_top_k(raw, count, scratch);
    } else {
        gather(raw, scratch.maxima, -kInf, scratch.candidates);
    }
    std::sort(scratch.candidates.begin(), scratch.candidates.end(), ranks_before);
    for (const Candidate& c : scratch.candidates) {
        result.top_tokens.push_back(c.id);
        result.top_logprobs.push_back(static_cast<float>(c.logit - log_sum));
    }
    return log_sum;
}

SampleResult sample_row(const SampleRow& row, std::size_t vocab, Scratch& scratch) {
    check(row, vocab);
    SampleResult result;
    const Logits raw(row.logits, vocab);
    const bool no_nan = raw.find_maxima(scratch.maxima);
    const float max = *std::max_element(scratch.maxima.begin(), scratch.maxima.end());
    check_logits(no_nan, max);
    const bool reports = row.num_logprobs >= 0;
    const double log_sum = reports ? report_alternatives(row, raw, max, result, scratch) : 0.0;
    if (row.repetition_penalty != 1.0f && !row.history.empty()) {
        const Logits penalized(penalize(row, vocab, scratch), vocab);
        penalized.find_maxima(scratch.maxima);
        check_logits(true, *std::max_element(scratch.maxima.begin(), scratch.maxima.end()));
        result.token = choose(row, penalized, scratch);
    } else {
        result.token = choose(row, raw, scratch);
    }
    const float logit = raw[static_cast<std::size_t>(result.token)];
    result.logprob =
        reports ? static_cast<float>(logit - log_sum) : std::numeric_limits<float>::quiet_NaN();
    return result;
}

}  // namespace

double sample_uniform(std::uint64_t seed, std::uint64_t counter) {
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
    std::uint32_t c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product0 = std::uint64_t{0xD2511F53} * c0;
        const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * c2;
        c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ key0;
        c1 = static_cast<std::uint32_t>(product1);
        c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ key1;
        c3 = static_cast<std::uint32_t>(product0);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    return ((c0 >> 5) * 67108864.0 + (c1 >> 6)) * 0x1p-53;
}

void sample(std::span<const SampleRow> rows, std::size_t vocab, std::span<SampleResult> results,
            const ParallelFor& parallel_for) {
    if (vocab == 0) fail("the vocabulary is empty");
    if (rows.size() != results.size()) fail("rows and results differ in number");
    std::vector<std::optional<std::string>> errors(rows.size());  // a worker thread must not throw
    const auto body = [&](std::size_t i) {
        static thread_local Scratch scratch;
        try {
            results[i] = sample_row(rows[i], vocab, scratch);
        } catch (const std::invalid_argument& error) {
            errors[i] = error.what();
        }
    };
    if (parallel_for) {
        parallel_for(rows.size(), body);
    } else {
        for (std::size_t i = 0; i < rows.size(); ++i) body(i);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (errors[i]) fail("row " + std::to_string(i) + ": " + *errors[i]);
    }
}

}  // namespace tk
