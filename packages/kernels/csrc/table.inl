// Fills an instruction set's table: TK_TABLE names it, TK_MATMULS lists its products in the order of Format.
namespace tk {
extern const KernelTable TK_TABLE;
const KernelTable TK_TABLE = {
    {TK_MATMULS}, quantize, quantize_wide, rms_norm, rope, silu_gate, relu2_gate, gelu_tanh_gate, add, to_half, attention,
};
}  // namespace tk
