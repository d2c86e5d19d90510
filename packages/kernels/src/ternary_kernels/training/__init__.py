"""Training kernels for PyTorch tensors on the CPU: functions (rows), operators with gradients (ops)."""

from ternary_kernels.training.attention import attention
from ternary_kernels.training.ops import rms_norm, swiglu
from ternary_kernels.training.rows import (
    FLOATS,
    cross_entropy_rows,
    group_product,
    quantize_columns,
    quantize_rows,
    scale_sums,
    ternarize,
)
from ternary_kernels.training.threads import SHARES_THREADS, describe

__all__ = [
    "FLOATS",
    "SHARES_THREADS",
    "attention",
    "cross_entropy_rows",
    "describe",
    "group_product",
    "quantize_columns",
    "quantize_rows",
    "rms_norm",
    "scale_sums",
    "swiglu",
    "ternarize",
]
