// See sampler.h for what is computed. How:
//
// A row is cut into blocks of 128 logits. `block_maxima` costs one pass and serves everybody: the greedy
// choice looks into one block, top-k takes the k-th largest block maximum as a safe cut-off (at least k
// logits reach it), top-p gathers what lies above a cut-off and lowers it at most twice, then finds its
// last token by a histogram of masses instead of sorting.
// A mask is never written out: the passes over a row read its bits beside the logits (a block that is all allowed
// or all forbidden costs less), everybody else asks for one block at a time (`Logits::block`).
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
#include <utility>

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
constexpr std::size_t kWords = kBlock / 32;  // of a block's mask
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

enum class Allowed { kNone, kSome, kAll };

// How much of a block its 4 words of mask allow.
SAMPLER_INLINE Allowed allowed_of(const std::uint32_t* words) {
    if ((words[0] & words[1] & words[2] & words[3]) == ~std::uint32_t{0}) return Allowed::kAll;
    return (words[0] | words[1] | words[2] | words[3]) == 0 ? Allowed::kNone : Allowed::kSome;
}

// 8 logits, those that are forbidden -inf; they belong to byte `byte` of a word of mask that fills all lanes.
SAMPLER_INLINE Floats masked(Floats logits, Ints word, std::size_t byte) {
    const Ints bits = Ints{1, 2, 4, 8, 16, 32, 64, 128} << static_cast<std::int32_t>(8 * byte);
    return (word & bits) == 0 ? Floats{} - kInf : logits;
}

SAMPLER_INLINE Floats load(const float* x) { return *reinterpret_cast<const Floats*>(x); }

SAMPLER_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

SAMPLER_INLINE float largest(Floats v) {
    float best = v[0];
    for (std::size_t lane = 1; lane < kLanes; ++lane) best = v[lane] > best ? v[lane] : best;
    return best;
}

// Maximum of each block of x[0 .. n), n a multiple of kBlock: of all its logits, and with a mask (4 words a block)
// of those that are allowed. False if there is a NaN, forbidden ones included.
SAMPLER_CLONES bool block_maxima(const float* x, const std::uint32_t* mask, std::size_t n, float* maxima,
                                 float* allowed_maxima) {
    Ints nan{};
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
        const std::uint32_t* words = mask == nullptr ? nullptr : mask + begin / 32;
        const Allowed allowed = words == nullptr ? Allowed::kAll : allowed_of(words);
        Floats max = load(x + begin);
        nan |= max != max;
        if (allowed == Allowed::kSome) {
            Floats allowed_max = Floats{} - kInf;
            for (std::size_t w = 0; w < kWords; ++w) {
                const Ints word = Ints{} + static_cast<std::int32_t>(words[w]);
                for (std::size_t byte = 0; byte < 4; ++byte) {
                    const Floats v = load(x + begin + 32 * w + kLanes * byte);
                    nan |= v != v;
                    max = larger(v, max);
                    allowed_max = larger(masked(v, word, byte), allowed_max);
                }
            }
            allowed_maxima[begin / kBlock] = largest(allowed_max);
        } else {
            for (std::size_t i = kLanes; i < kBlock; i += kLanes) {
                const Floats v = load(x + begin + i);
                nan |= v != v;
                max = larger(v, max);
            }
        }
        maxima[begin / kBlock] = largest(max);
        if (words != nullptr && allowed != Allowed::kSome) {
            allowed_maxima[begin / kBlock] = allowed == Allowed::kAll ? maxima[begin / kBlock] : -kInf;
        }
    }
    std::int32_t any = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) any |= nan[lane];
    return any == 0;
}

// Sum of the masses of what is allowed in each block; n is a multiple of kBlock. Exact, so lanes do not matter.
SAMPLER_CLONES void block_masses(const float* x, const std::uint32_t* mask, std::size_t n, float max,
                                 float inverse_temperature, double* masses) {
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
        const std::uint32_t* words = mask == nullptr ? nullptr : mask + begin / 32;
        const Allowed allowed = words == nullptr ? Allowed::kAll : allowed_of(words);
        Doubles sum{};
        if (allowed == Allowed::kAll) {
            for (std::size_t i = 0; i < kBlock; i += kLanes) {
                const Masses mass = mass_of(load(x + begin + i), max, inverse_temperature);
                sum += mass.low + mass.high;
            }
        } else if (allowed == Allowed::kSome) {
            for (std::size_t w = 0; w < kWords; ++w) {
                const Ints word = Ints{} + static_cast<std::int32_t>(words[w]);
                for (std::size_t byte = 0; byte < 4; ++byte) {
                    const Floats v = masked(load(x + begin + 32 * w + kLanes * byte), word, byte);
                    const Masses mass = mass_of(v, max, inverse_temperature);
                    sum += mass.low + mass.high;
                }
            }
        }
        masses[begin / kBlock] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

SAMPLER_CLONES void mask_block(const float* x, const std::uint32_t* words, float* out) {
    for (std::size_t w = 0; w < kWords; ++w) {
        const Ints word = Ints{} + static_cast<std::int32_t>(words[w]);
        for (std::size_t byte = 0; byte < 4; ++byte) {
            const std::size_t i = 32 * w + kLanes * byte;
            const Floats v = masked(load(x + i), word, byte);
            std::memcpy(out + i, &v, sizeof v);
        }
    }
}

// The mass of each logit; n is a multiple of kLanes.
SAMPLER_CLONES void masses(const float* x, std::size_t n, float max, float inverse_temperature, double* out) {
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Masses mass = mass_of(load(x + i), max, inverse_temperature);
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
    std::vector<float> maxima, allowed_maxima;  // of each block: of all logits, of those that may be drawn
    std::vector<float> adjusted, gathered;
    std::vector<double> masses;
    std::vector<Candidate> candidates, selection;
    std::vector<std::uint32_t> counts;  // [vocab], all zero between two uses
};

// The logits of a row, and which of them are allowed, as whole blocks: the tail is padded with -inf in a copy of
// its own. Null allows all.
class Logits {
public:
    Logits(const float* data, std::size_t vocab, const std::uint32_t* mask = nullptr)
        : data_(data), mask_(mask), vocab_(vocab), whole_(vocab / kBlock * kBlock) {
        if (whole_ == vocab_) return;
        std::fill(tail_, tail_ + kBlock, -kInf);
        std::copy(data_ + whole_, data_ + vocab_, tail_);
        if (mask_ != nullptr) std::copy(mask_ + whole_ / 32, mask_ + (vocab_ + 31) / 32, tail_mask_);
    }
    std::size_t vocab() const { return vocab_; }
    std::size_t num_blocks() const { return (vocab_ + kBlock - 1) / kBlock; }
    // Block b with -inf for what is forbidden, in `copy` [kBlock] if anything is.
    const float* block(std::size_t b, float* copy) const {
        const float* x = b * kBlock < whole_ ? data_ + b * kBlock : tail_;
        if (mask_ == nullptr) return x;
        const std::uint32_t* words = b * kBlock < whole_ ? mask_ + b * kWords : tail_mask_;
        if (allowed_of(words) == Allowed::kAll) return x;
        mask_block(x, words, copy);
        return copy;
    }

    // Of all logits and of the allowed ones. False if there is a NaN.
    bool find_maxima(Scratch& scratch) const {
        std::vector<float>&maxima = scratch.maxima, &allowed = scratch.allowed_maxima;
        maxima.resize(num_blocks());
        allowed.resize(num_blocks());
        bool valid = block_maxima(data_, mask_, whole_, maxima.data(), allowed.data());
        if (whole_ != vocab_) valid &= block_maxima(tail_, tail_mask(), kBlock, &maxima.back(), &allowed.back());
        if (mask_ == nullptr) allowed = maxima;
        return valid;
    }
    // Of what is allowed.
    double find_masses(float max, float inverse_temperature, std::vector<double>& masses) const {
        masses.resize(num_blocks());
        block_masses(data_, mask_, whole_, max, inverse_temperature, masses.data());
        if (whole_ != vocab_) block_masses(tail_, tail_mask(), kBlock, max, inverse_temperature, &masses.back());
        double total = 0.0;
        for (double mass : masses) total += mass;
        return total;
    }

private:
    const std::uint32_t* tail_mask() const { return mask_ == nullptr ? nullptr : tail_mask_; }

    const float* data_;
    const std::uint32_t* mask_;
    std::size_t vocab_, whole_;
    float tail_[kBlock];
    std::uint32_t tail_mask_[kWords] = {};
};

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string number(float value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", static_cast<double>(value));
    return text;
}

void check_finite(const char* name, float value) {
    if (!std::isfinite(value)) fail(std::string(name) + " must be a finite number, got " + number(value));
}

void check_ids(const char* name, std::span<const std::int32_t> ids, std::size_t vocab) {
    for (std::int32_t id : ids) {
        if (id < 0 || static_cast<std::size_t>(id) >= vocab) {
            fail(std::string(name) + " has token " + std::to_string(id) + ", the vocabulary only " +
                 std::to_string(vocab));
        }
    }
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
    check_finite("presence_penalty", row.presence_penalty);
    check_finite("frequency_penalty", row.frequency_penalty);
    for (float value : row.bias_values) check_finite("bias", value);
    if (row.bias_ids.size() != row.bias_values.size()) {
        fail("bias has " + std::to_string(row.bias_ids.size()) + " ids and " +
             std::to_string(row.bias_values.size()) + " values");
    }
    check_ids("history", row.history, vocab);
    check_ids("answer", row.answer, vocab);
    check_ids("bias", row.bias_ids, vocab);
}

// Appends the logits >= cut in ascending id; only blocks whose maximum reaches it are read.
void gather(const Logits& logits, const std::vector<float>& maxima, float cut, std::vector<Candidate>& out) {
    out.clear();
    float copy[kBlock];
    for (std::size_t b = 0; b < maxima.size(); ++b) {
        if (!(maxima[b] >= cut)) continue;
        const float* x = logits.block(b, copy);
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

// The first k of the ranking that reach `cut`, in ascending id. 1 <= k < vocab.
void gather_top_k(const Logits& logits, const std::vector<float>& maxima, std::size_t k, float cut, Scratch& scratch) {
    if (k <= maxima.size()) {  // k block maxima reach the k-th largest of them
        scratch.gathered = maxima;
        const auto kth = scratch.gathered.begin() + static_cast<std::ptrdiff_t>(k - 1);
        std::nth_element(scratch.gathered.begin(), kth, scratch.gathered.end(), std::greater<>());
        cut = std::max(cut, *kth);
    }
    gather(logits, maxima, cut, scratch.candidates);
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
        gather(logits, scratch.allowed_maxima, cut_below(max, nats, inverse_temperature), scratch.candidates);
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

// Draws from the whole vocabulary: first the block, then the token in it. What has no mass is passed over, so
// that above 2^19 tokens, where sums may be off in the last bit, the last one that has some ends both loops.
std::int32_t draw_any(const Logits& logits, float max, float inverse_temperature, double uniform,
                      Scratch& scratch) {
    const double target = uniform * logits.find_masses(max, inverse_temperature, scratch.masses);
    double running = 0.0, before = 0.0;
    std::size_t block = 0, token = 0;
    for (std::size_t b = 0; b < scratch.masses.size() && running <= target; ++b) {
        if (scratch.masses[b] == 0.0) continue;
        block = b;
        before = running;
        running += scratch.masses[b];
    }
    float copy[kBlock];
    double mass[kBlock];
    masses(logits.block(block, copy), kBlock, max, inverse_temperature, mass);
    for (std::size_t i = 0; i < kBlock && before <= target; ++i) {
        if (mass[i] == 0.0) continue;
        token = i;
        before += mass[i];
    }
    return static_cast<std::int32_t>(block * kBlock + token);
}

std::int32_t argmax(const Logits& logits, const std::vector<float>& maxima, float max) {
    const auto b = static_cast<std::size_t>(std::find(maxima.begin(), maxima.end(), max) - maxima.begin());
    float copy[kBlock];
    const float* x = logits.block(b, copy);
    return static_cast<std::int32_t>(b * kBlock + static_cast<std::size_t>(std::find(x, x + kBlock, max) - x));
}

std::int32_t choose(const SampleRow& row, const Logits& logits, Scratch& scratch) {
    const float max = *std::max_element(scratch.allowed_maxima.begin(), scratch.allowed_maxima.end());
    if (max == kInf) fail("bias or penalties make a logit +inf");
    if (max == -kInf && row.mask != nullptr) fail("no token can be drawn: the mask forbids every one above -inf");
    if (max == -kInf) fail("no token can be drawn: bias or penalties make every logit -inf");
    if (row.temperature < kGreedyBelow || row.top_k == 1) return argmax(logits, scratch.allowed_maxima, max);
    const float inverse_temperature = 1.0f / row.temperature;
    const double uniform = sample_uniform(row.seed, row.counter);
    const bool has_top_k = row.top_k > 0 && static_cast<std::size_t>(row.top_k) < logits.vocab();
    if (has_top_k) {
        gather_top_k(logits, scratch.allowed_maxima, static_cast<std::size_t>(row.top_k),
                     std::numeric_limits<float>::lowest(), scratch);
        const double total = find_candidate_masses(max, inverse_temperature, scratch);
        if (row.top_p < 1.0f) keep_top_p(row.top_p * total, max, scratch);
    } else if (row.top_p < 1.0f) {
        gather_top_p(logits, max, inverse_temperature, row.top_p, scratch);
    } else if (row.min_p > 0.0f) {
        const double nats = 1e-3 - std::log(static_cast<double>(row.min_p));
        gather(logits, scratch.allowed_maxima, cut_below(max, nats, inverse_temperature), scratch.candidates);
        find_candidate_masses(max, inverse_temperature, scratch);
    } else {
        return draw_any(logits, max, inverse_temperature, uniform, scratch);
    }
    std::erase_if(scratch.candidates, [&](const Candidate& c) { return c.mass < row.min_p; });
    return draw_candidate(scratch, uniform);
}

bool is_adjusted(const SampleRow& row) {
    const bool is_repeated = row.repetition_penalty != 1.0f && !row.history.empty();
    const bool is_counted = (row.presence_penalty != 0.0f || row.frequency_penalty != 0.0f) && !row.answer.empty();
    return is_repeated || is_counted || !row.bias_ids.empty();
}

// The row's logits with bias and penalties, in scratch.
const float* adjust(const SampleRow& row, std::size_t vocab, Scratch& scratch) {
    scratch.adjusted.assign(row.logits, row.logits + vocab);
    scratch.counts.resize(vocab);
    float* x = scratch.adjusted.data();
    std::uint32_t* counts = scratch.counts.data();
    for (std::size_t i = 0; i < row.bias_ids.size(); ++i) x[row.bias_ids[i]] += row.bias_values[i];
    if (row.repetition_penalty != 1.0f) {
        for (std::int32_t id : row.history) {
            if (counts[id]++ > 0) continue;
            x[id] = x[id] > 0.0f ? x[id] / row.repetition_penalty : x[id] * row.repetition_penalty;
        }
        for (std::int32_t id : row.history) counts[id] = 0;
    }
    for (std::int32_t id : row.answer) ++counts[id];
    for (std::int32_t id : row.answer) {
        if (const std::uint32_t count = std::exchange(counts[id], 0)) {
            x[id] -= static_cast<float>(count) * row.frequency_penalty;
            x[id] -= row.presence_penalty;
        }
    }
    return x;
}

void check_logits(bool no_nan, float max) {
    if (no_nan && max != kInf && max != -kInf) return;
    const std::string why = ": the model's weights or scales are damaged, or its numbers go beyond float32";
    if (!no_nan) fail("the logits have a NaN" + why);
    if (max == kInf) fail("the logits have a +inf" + why);
    if (max == -kInf) fail("all logits are -inf: no token is allowed");
}

// log(sum(exp(raw logits))), and the alternatives into `result`.
double report_alternatives(const SampleRow& row, const Logits& raw, float max, SampleResult& result,
                           Scratch& scratch) {
    const double log_sum = max + std::log(raw.find_masses(max, 1.0f, scratch.masses));
    const std::size_t count = std::min(static_cast<std::size_t>(row.num_logprobs), raw.vocab());
    if (count == 0) return log_sum;
    if (count < raw.vocab()) {
        gather_top_k(raw, scratch.maxima, count, -kInf, scratch);
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
    const Logits logits(row.logits, vocab, row.mask);
    const bool no_nan = logits.find_maxima(scratch);
    const float max = *std::max_element(scratch.maxima.begin(), scratch.maxima.end());
    check_logits(no_nan, max);
    const bool reports = row.num_logprobs >= 0;
    const Logits raw(row.logits, vocab);
    const double log_sum = reports ? report_alternatives(row, raw, max, result, scratch) : 0.0;
    if (is_adjusted(row)) {
        const Logits adjusted(adjust(row, vocab, scratch), vocab, row.mask);
        adjusted.find_maxima(scratch);
        result.token = choose(row, adjusted, scratch);
    } else {
        result.token = choose(row, logits, scratch);
    }
    const float logit = row.logits[result.token];
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
