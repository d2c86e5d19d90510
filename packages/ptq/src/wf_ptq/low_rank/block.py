"""Corrections of one block's linears, in the order in which they compute.

Per group of linears with the same input: a pass of the quantized stream collects their residuals against
the original linears (residuals.py), each correction is solved (solve.py) and put in, and the next group's
inputs have it in them. Codes, scales and norms stay. Memory: the moments of a group, [in, in] and [out, in]
a linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch import BitLinearLRC
from bitnet_arch.families import blocks
from wf_ptq.inputs import input_groups
from wf_ptq.low_rank.residuals import linear_residuals
from wf_ptq.low_rank.solve import solve_correction
from wf_ptq.options import LowRankOptions
from wf_ptq.streams import BlockRunner, stream_error


@dataclass(frozen=True)
class LowRankReport:
    """Relative squared errors on the calibration text, without and with the corrections: of each linear's
    output on its inputs, and of the stream after the block."""

    before: dict[str, float]
    after: dict[str, float]
    stream_before: float
    stream: float


@dataclass(frozen=True)
class LowRankMethod:
    """Solves the corrections of a model (a `wf_ptq.walk.BlockMethod`).

    originals: the full-precision block of each block.
    """

    originals: Mapping[nn.Module, nn.Module]
    damping: float = LowRankOptions.damping

    @classmethod
    def between(cls, model: Any, teacher: Any, damping: float = LowRankOptions.damping) -> LowRankMethod:
        """For a model whose linears have corrections of zeros (`bitnet_arch.install_low_rank`)."""
        pairs = zip(blocks(model), blocks(teacher), strict=True)
        return cls({block: original for (_, block), (_, original) in pairs}, damping)

    @torch.no_grad()
    def quantize_block(
        self, run: BlockRunner, block: nn.Module, inputs: Tensor, targets: Tensor, seed: int
    ) -> LowRankReport:
        """Fills the corrections of a block in place.

        Args:
            inputs: quantized stream before the block [sequences, tokens, hidden].
            targets: full-precision stream after it, for the report.
            seed: not used, nothing is random.
        Raises:
            ValueError: what `solve_correction` refuses; names the linear.
        """
        stream_before = stream_error(run, block, inputs, targets)
        before: dict[str, float] = {}
        after: dict[str, float] = {}
        for layers in filter(None, input_groups(block)):
            found = linear_residuals(run, block, self.originals[block], layers, inputs)
            for name, layer in layers.items():
                assert isinstance(layer, BitLinearLRC)
                try:
                    solved = solve_correction(found[name], layer.rank, self.damping)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
                layer.lrc_u.copy_(solved.u)
                layer.lrc_v.copy_(solved.v)
                before[name], after[name] = solved.before, solved.after
        return LowRankReport(before, after, stream_before, stream_error(run, block, inputs, targets))
