"""Checkpoint -> Hugging Face folder with phases of complex weights, which the native engine runs.

The layout of the matrices is that of `wf_formats.phases`; all other tensors are stored as they are. Phases
and scales are those of training, to the bit. No other runtime computes such sums: quant_method
"wrinklefree_phases" is known to none, so that none takes the folder for something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_formats.matrix import check_stored_scales
from wf_formats.phases import pack_phases
from wf_formats.schemes import PHASES_METHOD


@dataclass(frozen=True)
class PhaseLayout:
    """A `Layout`."""

    checkpoint: ConvertedCheckpoint
    name = PHASES_METHOD

    def quantization(self) -> dict[str, Any]:
        return {"quant_method": PHASES_METHOD, "scheme": self.checkpoint.scheme}

    def tensors(self, name: str) -> dict[str, Tensor]:
        matrix = self.checkpoint.phases(name)
        check_stored_scales(f"{self.checkpoint.folder}: scales of {name}", matrix.scales)
        return {
            name: torch.from_numpy(pack_phases(matrix.phases)),
            f"{name}_scale": torch.from_numpy(matrix.scales.reshape(-1, 4)),
        }
