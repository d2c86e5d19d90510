"""Training kernels, where something offers them for a tensor's device; else PyTorch's operators do the same.

On the CPU they are those of `ternary_kernels`, when that package is installed. They are the same functions
of their inputs as the operators here, to the bit where integers or scales come out, and refuse NaN and
infinity. `describe` says which run; applications log it.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)


@cache
def _cpu_kernels() -> ModuleType | None:
    try:
        return importlib.import_module("ternary_kernels.training")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ternary_kernels":
            raise
        return None


def kernels_for(dtype: torch.dtype, *tensors: Tensor) -> ModuleType | None:
    """The kernels for floats of this dtype and plain contiguous tensors that all lie on the CPU, or None."""
    if torch.compiler.is_compiling():
        return None
    if not all(type(x) in _PLAIN and x.device.type == "cpu" and x.is_contiguous() for x in tensors):
        return None
    kernels = _cpu_kernels()
    return kernels if kernels is not None and dtype in kernels.FLOATS else None


def describe(device: torch.device) -> str:
    """One line on what computes the quantized layers of a model on `device`."""
    if device.type != "cpu":
        return f"quantized layers: PyTorch operators on {device.type}"
    kernels = _cpu_kernels()
    if kernels is None:
        return (
            "quantized layers: PyTorch operators, two to four times slower than ternary_kernels; install the "
            "package ternary-kernels"
        )
    return f"quantized layers: {kernels.describe()}"


@cache
def log_kernels(device: torch.device) -> None:
    """Logs `describe`, once for each device."""
    logging.getLogger("bitnet_arch").info(describe(device))
