"""Checkpoint -> Hugging Face folder with packed ternary weights, family A: stock `BitNetForCausalLM`.

Needs nothing of ours to load. Four codes share a byte by blocks of rows (wf_formats.packed_codes).
Two conventions for the scale s of W' = s q, by the class that transformers puts in:

    linear_class   weight_scale  its forward
    bitlinear      1 / s         divides by weight_scale; keeps the packed bytes in memory. What
                                 Microsoft's published models (bitnet-b1.58-2B-4T) use: the default
    autobitlinear  s             multiplies by weight_scale; unpacks to floats when loading

Swapping them changes the logits by whole nats, so the parity tests cover both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_converter.errors import ExportError
from wf_formats.packed_codes import pack_rows


class LinearClass(StrEnum):
    """transformers' classes for packed BitNet layers."""

    BITLINEAR = "bitlinear"
    AUTOBITLINEAR = "autobitlinear"


@dataclass(frozen=True)
class BitnetLayout:
    """A `Layout`."""

    checkpoint: ConvertedCheckpoint
    linear_class: LinearClass

    @property
    def name(self) -> str:
        return f"bitnet ({self.linear_class})"

    def quantization(self) -> dict[str, Any]:
        return {
            "quant_method": "bitnet",
            "linear_class": str(self.linear_class),
            "quantization_mode": "offline",
            "modules_to_not_convert": ["lm_head"],
            "use_rms_norm": False,
        }

    def tensors(self, name: str) -> dict[str, Tensor]:
        matrix = self.checkpoint.matrix(name)
        scale = torch.from_numpy(matrix.scales).reshape(1)
        try:
            packed = torch.from_numpy(pack_rows(matrix.codes))
        except ValueError as error:
            raise ExportError(f"{name}: {error}; alternative: --format gguf") from error
        inverse = self.linear_class is LinearClass.BITLINEAR
        return {name: packed, f"{name}_scale": 1 / scale if inverse else scale}
