"""Training kernels for PyTorch tensors on the CPU: functions (rows), operators with gradients (ops)."""

from ternary_kernels.training.adamw import GradientError, adamw, moment_size, new_moment
from ternary_kernels.training.attention import attention
from ternary_kernels.training.chosen import (
    code_gradients,
    compensate,
    descend,
    latent_codes,
    latent_gradients,
)
from ternary_kernels.training.ops import rms_norm, swiglu, turn
from ternary_kernels.training.rows import (
    FLOATS,
    cross_entropy_rows,
    divergence_rows,
    group_product,
    int8_columns,
    quantize_columns,
    quantize_rows,
    scale_sums,
    ternarize,
)
from ternary_kernels.training.threads import SHARES_THREADS, describe

__all__ = [
    "FLOATS",
    "SHARES_THREADS",
    "GradientError",
    "adamw",
    "attention",
    "code_gradients",
    "compensate",
    "cross_entropy_rows",
    "descend",
    "describe",
    "divergence_rows",
    "group_product",
    "int8_columns",
    "latent_codes",
    "latent_gradients",
    "moment_size",
    "new_moment",
    "quantize_columns",
    "quantize_rows",
    "rms_norm",
    "scale_sums",
    "swiglu",
    "ternarize",
    "turn",
]
