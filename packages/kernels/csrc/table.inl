// Fills an instruction set's table: TK_TABLE names it, TK_MATMULS lists its products in the order of Format.
#include "attention.inl"
#include "training/adamw.inl"
#include "training/chosen.inl"
#include "training/turned.inl"

namespace tk {
namespace {
template <typename T>
constexpr TypedRows<T> typed_rows() {
    return {quantize_row<T>, quantize_columns<T>, scale_sums<T>,      norm_row<T>,     norm_backward<T>,
            swiglu_row<T>,   swiglu_backward<T>,  turn<T>,            turn_backward<T>, cross_entropy_row<T>, divergence_row<T>,
            softmax_row<T>,  softmax_backward<T>, group_product<T>,   adamw_row<T>};
}
}  // namespace

extern const KernelTable TK_TABLE;
const KernelTable TK_TABLE = {
    {TK_MATMULS}, quantize, quantize_wide, rms_norm, rope, silu_gate, relu2_gate, gelu_tanh_gate, add, project, combine, to_half, attend_block, fold,
    {multiply_codes, sum_magnitudes, ternary_codes, group_sums, latent_codes, latent_gradients, code_gradient, compensate, descend, is_within, adamw_block, typed_rows<float>(), typed_rows<Bf16>()},
};
}  // namespace tk
