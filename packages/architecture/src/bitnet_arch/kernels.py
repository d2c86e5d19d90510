"""Training kernels, where something offers them for a tensor's device; else PyTorch's operators do the same.

They are those of `ternary_kernels`, when that package is installed: C++ on the CPU, Triton on a GPU. They are
the same functions of their inputs as the operators here, to the bit where integers or scales come out, and
refuse NaN and infinity. `describe` says which run; applications log it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

MODULES = {"cpu": "ternary_kernels.training", "cuda": "ternary_kernels.gpu"}
"""Of each type of device; a module has the kernels that pay there."""
Kernel = Literal[
    "adamw",
    "attention",
    "code_gradients",
    "compensate",
    "cross_entropy_rows",
    "dequantize_groups",
    "dequantize_rows",
    "descend",
    "divergence_rows",
    "group_product",
    "int8_columns",
    "latent_codes",
    "latent_gradients",
    "quantize_columns",
    "quantize_rows",
    "rms_norm",
    "rms_norm_bf16",
    "scale_sums",
    "swiglu",
    "ternarize",
    "turn",
]
"""A device's module has those that pay there."""
ON_GPUS = frozenset[Kernel](("dequantize_groups", "dequantize_rows", "rms_norm_bf16"))
"""Those that pay on a GPU alone."""
_PACKAGES = {"ternary_kernels", "triton"}
_PLAIN = (Tensor, nn.Parameter)


@cache
def _module_of(device_type: str) -> ModuleType | None:
    """None: no kernels for this type of device, or they are not installed."""
    if device_type not in MODULES:
        return None
    try:
        return importlib.import_module(MODULES[device_type])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        return None


def kernel_for(name: Kernel, dtype: torch.dtype, *tensors: Tensor) -> Callable[..., Any] | None:
    """The kernel of this name for floats of this dtype and plain contiguous tensors of one device.

    None where there is none, and PyTorch's operators have to do. Without tensors: the CPU's.
    """
    if torch.compiler.is_compiling():
        return None
    device = tensors[0].device if tensors else torch.device("cpu")
    if not all(type(x) in _PLAIN and x.device == device and x.is_contiguous() for x in tensors):
        return None
    module = _module_of(device.type)
    return getattr(module, name, None) if module is not None and dtype in module.FLOATS else None


def describe(device: torch.device) -> str:
    """One line on what computes the quantized layers of a model on `device`, and which kernels it lacks."""
    module = _module_of(device.type)
    if module is not None:
        needless = ON_GPUS if device.type == "cpu" else ()
        missing = [name for name in get_args(Kernel) if name not in needless and not hasattr(module, name)]
        others = f"; PyTorch operators for {', '.join(missing)}" if missing else ""
        return f"quantized layers: {module.describe()}{others}"
    if device.type == "cpu":
        return (
            "quantized layers: PyTorch operators, two to four times slower than ternary_kernels; install the "
            "package ternary-kernels"
        )
    if device.type in MODULES:
        return (
            f"quantized layers: PyTorch operators on {device.type}, products not in int8; for Triton kernels "
            "install the packages ternary-kernels and triton"
        )
    return f"quantized layers: PyTorch operators on {device.type}"


@cache
def log_kernels(device: torch.device) -> None:
    """Logs `describe`, once for each device."""
    logging.getLogger("bitnet_arch").info(describe(device))
