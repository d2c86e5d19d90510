"""Training kernels for PyTorch tensors on a GPU, in Triton: what `ternary_kernels.training` has for the CPU.

The same names and arguments, for the part of them that pays on a GPU; whoever asks for another (attention,
say, where PyTorch's own is good) computes it with PyTorch's operators. Codes, scales, scaled
sums and turned heads are those of the CPU to the bit, sums of floats up to their order. What is not finite is
not refused, since that would make each call wait for the GPU: it makes scales and losses NaN, of its own row,
column or group.

Importing it needs the package `triton`, which PyTorch for CUDA brings. Under Triton's interpreter
(TRITON_INTERPRET=1) the same functions take tensors on the CPU; tests do that.
"""

from ternary_kernels.gpu.blocks import rms_norm, rms_norm_bf16, swiglu
from ternary_kernels.gpu.launch import describe
from ternary_kernels.gpu.losses import cross_entropy_rows, divergence_rows
from ternary_kernels.gpu.positions import turn
from ternary_kernels.gpu.products import group_product, scale_sums
from ternary_kernels.gpu.rounding import dequantize_rows, quantize_columns, quantize_rows
from ternary_kernels.gpu.ternary import dequantize_groups, ternarize
from ternary_kernels.training.rows import FLOATS

__all__ = [
    "FLOATS",
    "cross_entropy_rows",
    "dequantize_groups",
    "dequantize_rows",
    "describe",
    "divergence_rows",
    "group_product",
    "quantize_columns",
    "quantize_rows",
    "rms_norm",
    "rms_norm_bf16",
    "scale_sums",
    "swiglu",
    "ternarize",
    "turn",
]
