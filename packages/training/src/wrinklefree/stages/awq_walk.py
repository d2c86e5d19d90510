"""The work of the AWQ stage: scales and ranges chosen block by block on calibration text (wf_ptq.awq).

The dense model and a copy whose linears round to 4 bits walk through the blocks side by side. Each finished
block is saved; a run that was stopped takes those and goes on, with the same result to the bit (unless time
is short, which decides how much text a block is searched on). Three losses on text that nothing was chosen on
are among the figures: of the dense model, rounded to nearest, and in the end.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import torch
from rich.progress import Progress as RichProgress

import bitnet_arch
import wf_ptq
from wf_formats.atomic import atomic_write_text
from wrinklefree.allocator import keep_freed_memory
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.config.awq import AwqConfig
from wrinklefree.config.logging import ProgressBar
from wrinklefree.dense import load_dense_model
from wrinklefree.errors import RunError
from wrinklefree.finite import figures_text
from wrinklefree.held_out import finite_loss, warn_if_worse
from wrinklefree.stages.awq_pace import AwqPace
from wrinklefree.stages.base import StageContext
from wrinklefree.stages.block_walk import walk
from wrinklefree.stages.calibration import BLOCKS_FILE
from wrinklefree.stages.conversion import DenseModel, meta_of
from wrinklefree.stages.saving import saving_s, weight_bytes

LOG = logging.getLogger("wrinklefree")


@dataclasses.dataclass(frozen=True)
class _TimedMethod:
    """AWQ (a `wf_ptq.BlockMethod`), searching on as many sequences as the pace allows."""

    method: wf_ptq.AwqMethod
    pace: AwqPace

    def quantize_block(self, *block: Any) -> wf_ptq.AwqReport:
        options = dataclasses.replace(self.method.options, num_search_sequences=self.pace.search_sequences())
        return dataclasses.replace(self.method, options=options).quantize_block(*block)


def run_awq(context: StageContext, dense: DenseModel, options: AwqConfig) -> dict[str, Any]:
    """Quantize `dense`, save `final`, return the summary's figures.

    Raises:
        DivergedError: a loss that is no number.
        RunError: the model has no place for scales; a block cannot be quantized.
    """
    config, run = context.config, context.run
    keep_freed_memory()
    bitnet_arch.log_kernels(torch.device("cpu"))
    assert dense.options is not None, "checked when the configuration was composed"
    student: Any = bitnet_arch.convert(dense.model, dense.options).requires_grad_(False)
    try:
        method = wf_ptq.AwqMethod.of(student, _awq_options(options))
    except ValueError as error:
        raise RunError(f"{config.model.name or config.model.source.value}: {error}") from error
    num_search = options.search_tokens // options.sequence_length_tokens
    pace = AwqPace(options, run, student.config.num_hidden_layers, num_search)
    teacher = load_dense_model(config.model.source, config.model.name)[0].requires_grad_(False)
    start_s = time.monotonic()
    losses = {
        name: finite_loss(model, dense.held_out, name)
        for name, model in (("dense", teacher), ("rounded", student))
    }
    losses_s = time.monotonic() - start_s
    pace.prepared(dense.seconds, losses_s / 2 + saving_s(run.path, weight_bytes(student)))
    reports = _walk(context, student, teacher, dense, method, pace)
    atomic_write_text(run.path / BLOCKS_FILE, figures_text(reports))
    losses["awq"] = finite_loss(student, dense.held_out, "awq")
    LOG.info("held-out loss in nats: %s", losses)
    warn_if_worse(losses, "rounded", "awq", "give more training.awq.tokens, of more kinds of text")
    figures = {
        "steps": 0,
        "first_loss": losses["rounded"],
        "last_loss": losses["awq"],
        "losses_nats": losses,
        "tokens": dense.fit_ids.numel(),
        "seconds": pace.spent_s,
    }
    save_model_folder(student, dense.tokenizer, run.final, meta_of(dense, context.meta), figures)
    run.parts.remove()
    pace.finished()
    return figures


def _walk(
    context: StageContext,
    student: Any,
    teacher: Any,
    dense: DenseModel,
    method: wf_ptq.AwqMethod,
    pace: AwqPace,
) -> list[dict[str, Any]]:
    """The reports of all blocks. Raises: as `walk`."""
    reports = []
    with RichProgress(disable=context.config.logging.progress_bar is ProgressBar.none) as progress:
        bar = progress.add_task("quantizing blocks", total=student.config.num_hidden_layers)
        timed = _TimedMethod(method, pace)
        for name, report in walk(context, student, teacher, dense.fit_ids, timed, "awq"):
            LOG.info(
                "%s: relative error %.5f, rounded to nearest %.5f",
                name,
                report["stream"],
                report["stream_rounded"],
            )
            reports.append({"block": name, **report})
            pace.passed()
            progress.advance(bar)
    return reports


def _awq_options(options: AwqConfig) -> wf_ptq.AwqOptions:
    return wf_ptq.AwqOptions(
        num_exponents=options.num_exponents,
        num_search_sequences=options.search_tokens // options.sequence_length_tokens,
        num_clips=options.num_clips,
    )
