// Training kernels for src/ternary_kernels/training.py, which checks every tensor that it passes as an address.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "training/adamw.h"
#include "training/training.h"

namespace nb = nanobind;

namespace tk {
namespace {

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}
FloatMatrix floats(uintptr_t data, bool bf16, int64_t rows, int64_t cols) { return {at<void>(data), bf16, rows, cols}; }
Rounding rounding_of(bool stochastic) { return stochastic ? Rounding::stochastic : Rounding::nearest; }

std::vector<AdamTensor> adam_tensors(const std::vector<uintptr_t>& weights, const std::vector<uintptr_t>& grads,
                                     const std::vector<uintptr_t>& first, const std::vector<uintptr_t>& second,
                                     const std::vector<int64_t>& sizes, const std::vector<int>& bits, const std::vector<uint32_t>& numbers,
                                     const std::vector<int64_t>& steps, const std::vector<double>& learning_rates,
                                     const std::vector<double>& weight_decays) {
    std::vector<AdamTensor> tensors;
    for (size_t i = 0; i < weights.size(); ++i)
        tensors.push_back({at<float>(weights[i]), at<float>(grads[i]), at<void>(first[i]), at<void>(second[i]), sizes[i], bits[i], numbers[i],
                           steps[i], learning_rates[i], weight_decays[i]});
    return tensors;
}

}  // namespace

void bind_training(nb::module_& module) {
    const auto unlocked = nb::call_guard<WithoutGil>();
    module.def("borrow_openmp", [](uintptr_t address) { borrow_openmp(reinterpret_cast<OpenMpParallel>(address)); });
    module.def(
        "quantize_rows",
        [](int threads, uintptr_t x, bool bf16, int64_t rows, int64_t cols, float smallest, bool stochastic, uint32_t seed, uintptr_t codes,
           uintptr_t inverse) {
            return quantize_rows(Team(threads), floats(x, bf16, rows, cols), smallest, rounding_of(stochastic), seed, at<int8_t>(codes),
                                 at<float>(inverse));
        },
        unlocked);
    module.def(
        "quantize_columns",
        [](int threads, uintptr_t x, bool bf16, int64_t rows, int64_t cols, uintptr_t factors, float smallest, bool stochastic, uint32_t seed,
           uintptr_t codes, uintptr_t inverse) {
            return quantize_columns(Team(threads), floats(x, bf16, rows, cols), at<float>(factors), smallest, rounding_of(stochastic), seed,
                                    at<int8_t>(codes), at<float>(inverse));
        },
        unlocked);
    module.def(
        "scale_sums",
        [](int threads, uintptr_t sums, uintptr_t row_factors, uintptr_t col_factors, uintptr_t out, bool bf16, int64_t rows, int64_t cols) {
            scale_sums(Team(threads), at<int32_t>(sums), at<float>(row_factors), at<float>(col_factors), floats(out, bf16, rows, cols));
        },
        unlocked);
    module.def(
        "ternarize",
        [](int threads, uintptr_t weight, int64_t rows, int64_t cols, int64_t group, float smallest, uintptr_t codes, uintptr_t scales) {
            return ternarize(Team(threads), at<float>(weight), rows, cols, group, smallest, at<int8_t>(codes), at<float>(scales));
        },
        unlocked);
    module.def(
        "group_product",
        [](int threads, uintptr_t weights, uintptr_t scales, int64_t rows, int64_t cols, int64_t group, uintptr_t codes, uintptr_t inverse,
           uintptr_t out, bool bf16, int64_t tokens) {
            group_product(Team(threads), {at<int8_t>(weights), at<float>(scales), rows, cols, group}, at<int8_t>(codes), at<float>(inverse),
                          floats(out, bf16, tokens, rows));
        },
        unlocked);
    module.def(
        "int8_columns",
        [](int threads, uintptr_t weights, uintptr_t scales, int64_t rows, int64_t cols, int64_t group, float most, uintptr_t columns,
           uintptr_t col_scales) {
            int8_columns(Team(threads), {at<int8_t>(weights), at<float>(scales), rows, cols, group}, most, at<int8_t>(columns),
                         at<float>(col_scales));
        },
        unlocked);
    module.def(
        "latent_codes",
        [](int threads, uintptr_t latent, uintptr_t scales, int64_t rows, int64_t cols, int64_t group, uintptr_t codes) {
            latent_codes(Team(threads), {at<float>(latent), at<float>(scales), rows, cols, group}, at<int8_t>(codes));
        },
        unlocked);
    module.def(
        "latent_gradients",
        [](int threads, uintptr_t latent, uintptr_t scales, int64_t rows, int64_t cols, int64_t group, uintptr_t grad, uintptr_t grad_scales) {
            latent_gradients(Team(threads), {at<float>(latent), at<float>(scales), rows, cols, group}, at<float>(grad), at<float>(grad_scales));
        },
        unlocked);
    module.def(
        "code_gradients",
        [](int threads, uintptr_t codes, uintptr_t grad, int64_t rows, int64_t cols, int64_t group, uintptr_t grad_scales) {
            code_gradients(Team(threads), at<int8_t>(codes), at<float>(grad), rows, cols, group, at<float>(grad_scales));
        },
        unlocked);
    module.def(
        "adamw",
        [](int threads, const std::vector<uintptr_t>& weights, const std::vector<uintptr_t>& grads, const std::vector<uintptr_t>& first,
           const std::vector<uintptr_t>& second, const std::vector<int64_t>& sizes, const std::vector<int>& bits,
           const std::vector<uint32_t>& numbers, const std::vector<int64_t>& steps,
           const std::vector<double>& learning_rates, const std::vector<double>& weight_decays, double beta1, double beta2, double eps) {
            return adamw(Team(threads),
                         adam_tensors(weights, grads, first, second, sizes, bits, numbers, steps, learning_rates, weight_decays),
                         {beta1, beta2, eps});
        },
        unlocked);
    const auto sweep = [](uintptr_t values, uintptr_t codes, uintptr_t factors, uintptr_t scales, int64_t size, int64_t cols) {
        return Sweep{at<float>(values), at<float>(codes), at<float>(factors), at<float>(scales), size, cols};
    };
    module.def(
        "compensate",
        [sweep](int threads, uintptr_t values, uintptr_t codes, uintptr_t factors, uintptr_t scales, int64_t size, int64_t cols) {
            compensate(Team(threads), sweep(values, codes, factors, scales, size, cols));
        },
        unlocked);
    module.def(
        "descend",
        [sweep](int threads, uintptr_t values, uintptr_t codes, uintptr_t factors, uintptr_t scales, int64_t size, int64_t cols) {
            descend(Team(threads), sweep(values, codes, factors, scales, size, cols));
        },
        unlocked);
    module.def(
        "divergence",
        [](int threads, uintptr_t logits, bool bf16, int64_t rows, int64_t cols, uintptr_t expected, float grad_factor, uintptr_t losses) {
            divergence(Team(threads), floats(logits, bf16, rows, cols), at<void>(expected), grad_factor, at<double>(losses));
        },
        unlocked);
    module.def(
        "norm",
        [](int threads, uintptr_t x, bool bf16, int64_t rows, int64_t cols, uintptr_t weight, float eps, uintptr_t out, uintptr_t factors) {
            norm(Team(threads), floats(x, bf16, rows, cols), at<float>(weight), eps, at<void>(out), at<float>(factors));
        },
        unlocked);
    module.def(
        "norm_backward",
        [](int threads, uintptr_t grad, bool bf16, int64_t rows, int64_t cols, uintptr_t x, uintptr_t weight, uintptr_t factors,
           uintptr_t grad_x, uintptr_t grad_weight) {
            norm_backward(Team(threads), floats(grad, bf16, rows, cols), at<void>(x), at<float>(weight), at<float>(factors), at<void>(grad_x),
                          at<float>(grad_weight));
        },
        unlocked);
    module.def(
        "swiglu",
        [](int threads, uintptr_t gate, bool bf16, int64_t rows, int64_t cols, uintptr_t up, uintptr_t out) {
            swiglu(Team(threads), floats(gate, bf16, rows, cols), at<void>(up), at<void>(out));
        },
        unlocked);
    module.def(
        "swiglu_backward",
        [](int threads, uintptr_t grad, bool bf16, int64_t rows, int64_t cols, uintptr_t gate, uintptr_t up, uintptr_t grad_gate,
           uintptr_t grad_up) {
            swiglu_backward(Team(threads), floats(grad, bf16, rows, cols), at<void>(gate), at<void>(up), at<void>(grad_gate),
                            at<void>(grad_up));
        },
        unlocked);
    module.def(
        "turn",
        [](int threads, uintptr_t x, bool bf16, int64_t rows, int64_t cols, uintptr_t cosine, uintptr_t sine, bool bf16_angles, int64_t tokens,
           int64_t size, bool backward, uintptr_t out) {
            const TokenAngles angles{at<void>(cosine), at<void>(sine), bf16_angles, tokens, size};
            (backward ? turn_backward : turn)(Team(threads), floats(x, bf16, rows, cols), angles, at<void>(out));
        },
        unlocked);
    module.def(
        "cross_entropy",
        [](int threads, uintptr_t logits, bool bf16, int64_t rows, int64_t cols, uintptr_t labels, int64_t ignored, float grad_factor,
           uintptr_t losses) {
            cross_entropy(Team(threads), floats(logits, bf16, rows, cols), at<int64_t>(labels), ignored, grad_factor, at<double>(losses));
        },
        unlocked);
    module.def(
        "softmax",
        [](int threads, uintptr_t scores, bool bf16, int64_t rows, int64_t cols, int64_t batches, int64_t queries, uintptr_t mask, float scale) {
            softmax(Team(threads), floats(scores, bf16, rows, cols), {batches, queries, at<uint8_t>(mask)}, scale);
        },
        unlocked);
    module.def(
        "softmax_backward",
        [](int threads, uintptr_t grad, bool bf16, int64_t rows, int64_t cols, uintptr_t shares, int64_t batches, int64_t queries,
           uintptr_t mask, float scale) {
            softmax_backward(Team(threads), floats(grad, bf16, rows, cols), at<void>(shares), {batches, queries, at<uint8_t>(mask)}, scale);
        },
        unlocked);
}

}  // namespace tk
