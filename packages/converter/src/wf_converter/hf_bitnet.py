"""Checkpoint -> Hugging Face folder with packed ternary weights, family A: stock `BitNetForCausalLM`.

Needs nothing of ours to load. Four codes share a byte *by row blocks* (transformers'
`integrations.bitnet`): with R = out / 4 the byte [r, c] holds q[r + i R, c] + 1 at bit 2 i, i = 0..3.
Two conventions for the scale s of W' = s q, by the class that transformers puts in:

    linear_class   weight_scale  its forward
    bitlinear      1 / s         divides by weight_scale; keeps the packed bytes in memory. What
                                 Microsoft's published models (bitnet-b1.58-2B-4T) use: the default
    autobitlinear  s             multiplies by weight_scale; unpacks to floats when loading

Swapping them changes the logits by whole nats, so the parity tests cover both.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wf_converter.errors import ExportError
from wf_converter.source import Source

ROWS_PER_BYTE = 4


class LinearClass(StrEnum):
    """transformers' classes for packed BitNet layers."""

    BITLINEAR = "bitlinear"
    AUTOBITLINEAR = "autobitlinear"


def pack_rows(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in] in {-1, 0, 1} -> uint8 [out / 4, in], row blocks.

    Raises:
        ExportError: the number of rows is no multiple of 4.
    """
    rows, columns = codes.shape
    if rows % ROWS_PER_BYTE:
        raise ExportError(f"{rows} rows are no multiple of 4, as transformers' packing needs")
    levels = (codes + 1).astype(np.uint8).reshape(ROWS_PER_BYTE, -1, columns)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(-1, 1, 1)
    packed: np.ndarray = np.bitwise_or.reduce(levels << shifts, axis=0)
    return packed


def check_bitnet(source: Source) -> None:
    """Raises ExportError for a checkpoint that `BitNetForCausalLM` cannot represent."""
    if source.model_type != "bitnet":
        raise ExportError(
            f"model type {source.model_type!r} with scheme {source.scheme} is no BitNetForCausalLM "
            "(Llama-like, SubLN, one scale per matrix)"
        )


def bitnet_config(source: Source, linear_class: LinearClass, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of the exported folder."""
    quantization = {
        "quant_method": "bitnet",
        "linear_class": str(linear_class),
        "quantization_mode": "offline",
        "modules_to_not_convert": ["lm_head"],
        "use_rms_norm": False,
    }
    name = str(dtype).removeprefix("torch.")
    return source.config | {"quantization_config": quantization, "dtype": name}


def bitnet_tensors(source: Source, name: str, linear_class: LinearClass) -> dict[str, Tensor]:
    """`weight` and `weight_scale` of one ternary matrix."""
    matrix = source.ternary(name)
    scale = torch.from_numpy(matrix.scales).reshape(1)
    try:
        packed = torch.from_numpy(pack_rows(matrix.codes))
    except ExportError as error:
        raise ExportError(f"{name}: {error}; alternative: --format gguf") from error
    inverse = linear_class is LinearClass.BITLINEAR
    return {name: packed, f"{name}_scale": 1 / scale if inverse else scale}
