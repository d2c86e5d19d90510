#include "training/training.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "isa.h"

namespace tk {

namespace {

constexpr int64_t kRows = 16;            // of one chunk
constexpr int64_t kProductRows = 64;     // weights' rows of one chunk of a product
constexpr int64_t kGradientRows = 16;    // rows whose gradients of a norm's weight are summed in float32, before float64

const TrainingTable& table() { return kernels().training; }

// Calls body(typed functions, pointer cast) for the matrix's type.
template <typename Body>
void typed(bool bf16, const Body& body) {
    if (bf16) body(table().halves, [](auto* p) { return static_cast<Bf16*>(const_cast<void*>(static_cast<const void*>(p))); });
    else body(table().floats, [](auto* p) { return static_cast<float*>(const_cast<void*>(static_cast<const void*>(p))); });
}

Noise noise_of(Rounding rounding, uint32_t seed, int64_t place) {
    return {seed ^ (static_cast<uint32_t>(place) * 0x85ebca6bu + 0x27d4eb2fu), rounding == Rounding::stochastic};
}

// Floats of the calling thread, whose contents are lost at the next call.
float* scratch_of(int64_t size) {
    thread_local Buffer<float> scratch;
    scratch.resize(size);
    return scratch.data();
}

// The smallest of the numbers that threads report.
class Lowest {
public:
    void add(int64_t number) {
        int64_t seen = lowest_.load();
        while (number < seen && !lowest_.compare_exchange_weak(seen, number)) {
        }
    }
    int64_t get() const { return lowest_ == kNone ? -1 : lowest_.load(); }

private:
    static constexpr int64_t kNone = INT64_MAX;
    std::atomic<int64_t> lowest_{kNone};
};

}  // namespace

int64_t quantize_rows(Team team, const FloatMatrix& x, float smallest, Rounding rounding, uint32_t seed, int8_t* codes, float* inverse) {
    Lowest bad;
    typed(x.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(x.rows, kRows, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r) {
                const auto* from = cast(x.data) + r * x.cols;
                inverse[r] = rows.quantize(from, x.cols, smallest, noise_of(rounding, seed, r), codes + r * x.cols);
                if (inverse[r] == 0) bad.add(r);
            }
        });
    });
    return bad.get();
}

bool quantize_columns(Team team, const FloatMatrix& x, const float* factors, float smallest, Rounding rounding, uint32_t seed, int8_t* codes,
                      float* inverse) {
    std::atomic<bool> finite{true};
    typed(x.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(x.cols, kStrip, [&](int64_t first, int64_t last) {
            if (!rows.quantize_columns(cast(x.data) + first, x.rows, x.cols, last - first, factors, smallest, noise_of(rounding, seed, first),
                                       codes + first * x.rows, inverse + first))
                finite = false;
        });
    });
    return finite;
}

void scale_sums(Team team, const int32_t* sums, const float* row_factors, const float* col_factors, const FloatMatrix& out) {
    typed(out.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(out.rows, kRows, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r)
                rows.scale_sums(sums + r * out.cols, out.cols, row_factors[r], col_factors, cast(out.data) + r * out.cols);
        });
    });
}

int64_t ternarize(Team team, const float* weight, int64_t rows, int64_t cols, int64_t group, float smallest, int8_t* codes, float* scales) {
    Lowest bad;
    // The reciprocals are those of bitnet_arch.quantizers.ternary.
    const auto inverse_of = [&](double sum, int64_t count) { return 1.0f / std::max(static_cast<float>(sum / static_cast<double>(count)), smallest); };
    if (group) {
        team.run_rows(rows, kRows, [&](int64_t first, int64_t last) {
            for (int64_t start = first * cols; start < last * cols; start += group) {
                const double sum = table().sum_magnitudes(weight + start, group);
                if (!std::isfinite(sum)) bad.add(start / cols);
                const float inverse = inverse_of(sum, group);
                table().ternary_codes(weight + start, group, inverse, codes + start);
                scales[start / group] = 1.0f / inverse;
            }
        });
        return bad.get();
    }
    std::vector<double> sums(rows);
    team.run_rows(rows, kRows, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
            sums[r] = table().sum_magnitudes(weight + r * cols, cols);
            if (!std::isfinite(sums[r])) bad.add(r);
        }
    });
    double total = 0;
    for (const double sum : sums) total += sum;
    const float inverse = inverse_of(total, rows * cols);
    team.run_rows(rows, kRows, [&](int64_t first, int64_t last) {
        table().ternary_codes(weight + first * cols, (last - first) * cols, inverse, codes + first * cols);
    });
    *scales = 1.0f / inverse;
    return bad.get();
}

void group_product(Team team, const GroupWeights& weights, const int8_t* codes, const float* inverse, const FloatMatrix& out) {
    const int64_t groups = weights.cols / weights.group;
    std::vector<int32_t> sums(out.rows * groups);
    team.run_rows(out.rows, kRows, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) table().group_sums(codes + t * weights.cols, weights.cols, weights.group, sums.data() + t * groups);
    });
    const GroupTokens tokens{codes, sums.data(), inverse, out.rows};
    const int64_t scratch_bytes = kProductRows * (weights.cols + groups * static_cast<int64_t>(sizeof(float)));
    typed(out.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(weights.rows, kProductRows, [&](int64_t first, int64_t last) {
            thread_local Buffer<uint8_t> scratch;
            scratch.resize(scratch_bytes);
            rows.group_product(weights, tokens, first, last, scratch.data(), cast(out.data), weights.rows);
        });
    });
}

void int8_columns(Team team, const GroupWeights& weights, float most, int8_t* columns, float* col_scales) {
    const int64_t groups = weights.cols / weights.group;
    std::vector<float> largest(weights.scales, weights.scales + groups);
    for (int64_t r = 1; r < weights.rows; ++r)
        for (int64_t g = 0; g < groups; ++g) largest[g] = std::max(largest[g], weights.scales[r * groups + g]);
    team.run_rows(weights.rows, kRows, [&, multiply = table().multiply_codes](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r)
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t i = r * groups + g;
                const long multiple = std::lrint(weights.scales[i] / largest[g] * (127 / most));
                multiply(weights.codes + i * weights.group, weights.group, static_cast<int32_t>(multiple), columns + i * weights.group);
            }
    });
    for (int64_t i = 0; i < weights.cols; ++i) col_scales[i] = largest[i / weights.group] * (most / 127);
}

void latent_codes(Team team, const LatentMatrix& matrix, int8_t* codes) {
    const int64_t size = matrix.group ? matrix.group : matrix.cols;
    team.run_rows(matrix.rows, kRows, [&](int64_t first, int64_t last) {
        for (int64_t start = first * matrix.cols; start < last * matrix.cols; start += size)
            table().latent_codes(matrix.latent + start, size, matrix.scales[matrix.group ? start / size : 0], codes + start);
    });
}

namespace {

// grad_scales[g] = of_group(start, g's scale's index) for runs of a group's weights; for one scale their sum.
template <typename OfGroup>
void scale_gradients(Team team, int64_t rows, int64_t cols, int64_t group, float* grad_scales, const OfGroup& of_group) {
    const int64_t size = group ? group : cols;
    std::vector<float> of_rows(group ? 0 : rows);
    float* out = group ? grad_scales : of_rows.data();
    team.run_rows(rows, kRows, [&](int64_t first, int64_t last) {
        for (int64_t start = first * cols; start < last * cols; start += size) out[start / size] = of_group(start, size);
    });
    if (group) return;
    double total = 0;
    for (const float of_row : of_rows) total += of_row;
    *grad_scales = static_cast<float>(total);
}

}  // namespace

void latent_gradients(Team team, const LatentMatrix& matrix, float* grad, float* grad_scales) {
    scale_gradients(team, matrix.rows, matrix.cols, matrix.group, grad_scales, [&](int64_t start, int64_t size) {
        return table().latent_gradients(matrix.latent + start, size, matrix.scales[matrix.group ? start / size : 0], grad + start);
    });
}

void code_gradients(Team team, const int8_t* codes, const float* grad, int64_t rows, int64_t cols, int64_t group, float* grad_scales) {
    scale_gradients(team, rows, cols, group, grad_scales,
                    [&](int64_t start, int64_t size) { return table().code_gradient(codes + start, size, grad + start); });
}

void compensate(Team team, const Sweep& sweep) {
    team.run_rows(sweep.cols, kStrip, [&](int64_t first, int64_t last) { table().compensate(sweep, first, last); });
}
void descend(Team team, const Sweep& sweep) {
    team.run_rows(sweep.cols, kStrip, [&](int64_t first, int64_t last) { table().descend(sweep, first, last); });
}

void norm(Team team, const FloatMatrix& x, const float* weight, float eps, void* out, float* factors) {
    typed(x.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(x.rows, kRows, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r)
                factors[r] = rows.norm(cast(x.data) + r * x.cols, weight, x.cols, eps, cast(out) + r * x.cols);
        });
    });
}

void norm_backward(Team team, const FloatMatrix& grad, const void* x, const float* weight, const float* factors, void* grad_x,
                   float* grad_weight) {
    const int64_t size = grad.cols;
    std::vector<float> partial(ceil_div(grad.rows, kGradientRows) * size);
    typed(grad.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(grad.rows, kGradientRows, [&](int64_t first, int64_t last) {
            float* sums = partial.data() + first / kGradientRows * size;
            for (int64_t r = first; r < last; ++r)
                rows.norm_backward(cast(grad.data) + r * size, cast(x) + r * size, weight, size, factors[r], cast(grad_x) + r * size, sums);
        });
    });
    std::vector<double> total(size);
    for (size_t start = 0; start < partial.size(); start += size)
        for (int64_t i = 0; i < size; ++i) total[i] += partial[start + i];
    std::copy(total.begin(), total.end(), grad_weight);
}

void swiglu(Team team, const FloatMatrix& gate, const void* up, void* out) {
    typed(gate.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(gate.rows, kRows, [&](int64_t first, int64_t last) {
            const int64_t start = first * gate.cols, size = (last - first) * gate.cols;
            rows.swiglu(cast(gate.data) + start, cast(up) + start, size, cast(out) + start);
        });
    });
}

void swiglu_backward(Team team, const FloatMatrix& grad, const void* gate, const void* up, void* grad_gate, void* grad_up) {
    typed(grad.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(grad.rows, kRows, [&](int64_t first, int64_t last) {
            const int64_t start = first * grad.cols, size = (last - first) * grad.cols;
            rows.swiglu_backward(cast(grad.data) + start, cast(gate) + start, cast(up) + start, size, cast(grad_gate) + start,
                                 cast(grad_up) + start);
        });
    });
}

namespace {

// Calls body(rows' functions, data, angles, out) for each token's heads.
template <typename Body>
void over_tokens(Team team, const FloatMatrix& x, const TokenAngles& angles, void* out, const Body& body) {
    const int64_t angle_bytes = angles.size * (angles.bf16 ? 2 : 4);
    const auto at = [&](const void* data, int64_t r) { return static_cast<const char*>(data) + r % angles.tokens * angle_bytes; };
    typed(x.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(x.rows, kRows, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r)
                body(rows, cast(x.data) + r * x.cols, Angles{at(angles.cosine, r), at(angles.sine, r), angles.bf16}, cast(out) + r * x.cols);
        });
    });
}

}  // namespace

void turn(Team team, const FloatMatrix& x, const TokenAngles& angles, void* out) {
    over_tokens(team, x, angles, out, [&](const auto& rows, const auto* from, const Angles& of_token, auto* to) {
        rows.turn(from, x.cols / angles.size, angles.size, of_token, to);
    });
}
void turn_backward(Team team, const FloatMatrix& grad, const TokenAngles& angles, void* grad_x) {
    over_tokens(team, grad, angles, grad_x, [&](const auto& rows, const auto* from, const Angles& of_token, auto* to) {
        rows.turn_backward(from, grad.cols / angles.size, angles.size, of_token, to);
    });
}

void cross_entropy(Team team, const FloatMatrix& logits, const int64_t* labels, int64_t ignored, float grad_factor, double* losses) {
    typed(logits.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(logits.rows, 2, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r) {
                auto* row = cast(logits.data) + r * logits.cols;
                losses[r] = 0;
                if (labels[r] != ignored) losses[r] = rows.cross_entropy(row, logits.cols, labels[r], grad_factor, scratch_of(logits.cols));
                else if (grad_factor != 0) std::memset(row, 0, logits.cols * sizeof *row);
            }
        });
    });
}

void divergence(Team team, const FloatMatrix& logits, const void* expected, float grad_factor, double* losses) {
    typed(logits.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(logits.rows, 2, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r)
                losses[r] = rows.divergence(cast(logits.data) + r * logits.cols, cast(expected) + r * logits.cols, logits.cols, grad_factor,
                                            scratch_of(2 * logits.cols));
        });
    });
}

namespace {

// How many of a row's keys a query can see at most, and its row of the mask.
struct Seen {
    int64_t visible;
    const uint8_t* allowed;
};
Seen seen_by(const FloatMatrix& scores, const Visibility& visibility, int64_t row) {
    const int64_t query = row % visibility.queries, batch = row / (scores.rows / visibility.batches);
    if (visibility.mask) return {scores.cols, visibility.mask + (batch * visibility.queries + query) * scores.cols};
    return {query + 1 + scores.cols - visibility.queries, nullptr};
}

}  // namespace

void softmax(Team team, const FloatMatrix& scores, const Visibility& visibility, float scale) {
    typed(scores.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(scores.rows, kRows, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r) {
                const Seen seen = seen_by(scores, visibility, r);
                rows.softmax(cast(scores.data) + r * scores.cols, seen.allowed, scores.cols, seen.visible, scale, scratch_of(scores.cols));
            }
        });
    });
}

void softmax_backward(Team team, const FloatMatrix& grad, const void* shares, const Visibility& visibility, float scale) {
    typed(grad.bf16, [&](const auto& rows, auto cast) {
        team.run_rows(grad.rows, kRows, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r)
                rows.softmax_backward(cast(shares) + r * grad.cols, cast(grad.data) + r * grad.cols, grad.cols,
                                      seen_by(grad, visibility, r).visible, scale);
        });
    });
}

}  // namespace tk
