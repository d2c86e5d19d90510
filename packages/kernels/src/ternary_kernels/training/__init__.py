"""Training kernels for PyTorch tensors on the CPU: functions (rows), operators with gradients (ops)."""

from ternary_kernels.training.attention import attention
from ternary_kernels.training.chosen import (
    code_gradients,
    compensate,
    descend,
    latent_codes,
    latent_gradients,
)
from ternary_kernels.training.ops import rms_norm, swiglu
from ternary_kernels.training.rows import (
    FLOATS,
    cross_entropy_rows,
    divergence_rows,
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
    "code_gradients",
    "compensate",
    "cross_entropy_rows",
    "descend",
    "describe",
    "divergence_rows",
    "group_product",
    "latent_codes",
    "latent_gradients",
    "quantize_columns",
    "quantize_rows",
    "rms_norm",
    "scale_sums",
    "swiglu",
    "ternarize",
]
