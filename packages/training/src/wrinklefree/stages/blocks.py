"""The first part of stage 1.5: codes and scales of one block after the other (wf_ptq.walk_blocks)."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from rich.progress import Progress as RichProgress
from torch import Tensor

import wf_ptq
from wrinklefree.config.ternarize import TernarizeConfig
from wrinklefree.stages.base import StageContext
from wrinklefree.stages.block_walk import walk
from wrinklefree.stages.pace import Pace

LOG = logging.getLogger("wrinklefree")
_WORSE = 1.1
"""Error after refinement over that before, on a few sequences."""


@dataclasses.dataclass(frozen=True)
class _TimedMethod:
    """The method for ternary weights (a `wf_ptq.BlockMethod`), with as many steps as the pace allows."""

    options: wf_ptq.BlockOptions
    pace: Pace

    def quantize_block(self, *block: Any) -> wf_ptq.BlockReport:
        num_steps = self.pace.refine_steps()
        refine = dataclasses.replace(self.options.refine, num_steps=num_steps)
        options = dataclasses.replace(self.options, refine=refine)
        report = wf_ptq.TernaryMethod(options, self.pace.refining).quantize_block(*block)
        self.pace.refined(num_steps)
        return report


def calibrate_blocks(
    context: StageContext,
    options: TernarizeConfig,
    student: Any,
    teacher: Any,
    ids: Tensor,
    progress: RichProgress,
    pace: Pace,
) -> list[dict[str, Any]]:
    """The reports of all blocks.

    Args:
        ids: [sequences, tokens].
        pace: says how many refinement steps a block gets.
    Raises:
        RunError: as `walk`.
    """
    method = _TimedMethod(_block_options(options), pace)
    bar = progress.add_task("calibrating blocks", total=student.config.num_hidden_layers)
    reports = []
    for name, report in walk(context, student, teacher, ids, method, "ternarize"):
        error, solved = report["stream"], report["stream_solved"]
        LOG.info("%s: relative error %.4f, before refinement %.4f", name, error, solved)
        if error > _WORSE * solved:
            LOG.warning(
                "%s: refinement has made it worse; lower training.ternarize.latent_rate, scale_rate or "
                "vector_rate",
                name,
            )
        reports.append({"block": name, "refine_steps": pace.refine_steps(), **report})
        pace.passed()
        progress.advance(bar)
    return reports


def _block_options(options: TernarizeConfig) -> wf_ptq.BlockOptions:
    rates = wf_ptq.Rates(options.latent_rate, options.scale_rate, options.vector_rate)
    return wf_ptq.BlockOptions(
        num_moment_sequences=-(-options.moment_tokens // options.sequence_length_tokens),
        solve=wf_ptq.SolveOptions(options.shrinkage, options.damping, options.num_sweeps),
        refine=wf_ptq.RefineOptions(options.refine_steps, options.refine_batch_size, rates),
    )
