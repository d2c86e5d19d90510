"""The work of stage 1.5: ternary codes and scales chosen on calibration text instead of rounded.

The converted model of stage 1 and its dense original walk through the blocks side by side
(wf_ptq). Each finished block is saved; a run that was stopped takes the finished
blocks, lets their hidden states pass and goes on, with the same result to the bit. Afterwards scales
and gains of all blocks are distilled on further text, saved every few steps.

Memory: the models stay on disk. Both are memory-mapped (the original where its files have the dtype to
compute in), and each block that was worked on is mapped from where it was saved. What is held are four
streams of hidden states [tokens, hidden] with one block's optimizer, and then what distil.py names.

How many steps there are, and what is said of the time that is left: pace.py.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
from rich.progress import Progress as RichProgress
from torch import Tensor

import bitnet_arch
import wf_ptq
from data_handler import token_block
from wf_formats.atomic import atomic_write_text
from wrinklefree.allocator import keep_freed_memory
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.checkpoints.part_store import PartStore
from wrinklefree.config.logging import ProgressBar
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.ternarize import ComputeDtype, TernarizeConfig
from wrinklefree.dense import load_dense_model
from wrinklefree.errors import RunError
from wrinklefree.finite import check_finite, figures_text
from wrinklefree.held_out import mean_loss
from wrinklefree.stages.base import StageContext
from wrinklefree.stages.budget import distil_bounds
from wrinklefree.stages.pace import Pace
from wrinklefree.stages.scales import distil_scales, open_loggers

LOG = logging.getLogger("wrinklefree")
BLOCKS_FILE = "blocks.json"
"""In the run folder: each block's refinement steps and errors (wf_ptq.BlockReport)."""
_SAVING_OVER_LOADING = 2.0
"""Time to save the result over the time to load the models and the text."""


@dataclasses.dataclass(frozen=True)
class _Text:
    """Token ids [sequences, tokens]; no sequence is in two of them."""

    calibration: Tensor
    distillation: Tensor
    held_out: Tensor


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


def run_calibration(context: StageContext, options: TernarizeConfig) -> dict[str, Any]:
    """Calibrate the checkpoint `context.start`, save `final`, return the summary's figures."""
    pace, began = Pace(options, context.run), time.perf_counter()
    keep_freed_memory()
    bitnet_arch.log_kernels(torch.device("cpu"))
    config, run = context.config, context.run
    loggers = open_loggers(context, options)
    checkpoint = bitnet_arch.load_checkpoint(context.checkpoint, dtype=torch.float32)
    student = checkpoint.model.requires_grad_(False)
    text = _read_text(config, options, checkpoint.tokenizer, student.config.vocab_size)
    dtype = _compute_dtype(options.dtype, run.parts)
    teacher = load_dense_model(config.model.source, config.model.name, dtype)[0].requires_grad_(False)
    loaded = time.perf_counter()
    losses = {"dense": mean_loss(teacher, text.held_out), "rounded": mean_loss(student, text.held_out)}
    check_finite(losses, "losses_nats")
    # At the end there are two losses again, and the result is written.
    end_s = time.perf_counter() - loaded + _SAVING_OVER_LOADING * (loaded - began)
    num_blocks = student.config.num_hidden_layers
    pace.prepared(num_blocks, len(text.distillation) // options.distil_batch_size, end_s)
    with RichProgress(disable=config.logging.progress_bar is ProgressBar.none) as progress:
        method = _TimedMethod(_block_options(options), pace)
        walk = wf_ptq.walk_blocks(student, teacher, text.calibration, method, run.parts, config.seed)
        reports = _calibrate_blocks(walk, num_blocks, progress, pace)
        losses["blocks"] = mean_loss(student, text.held_out)
        steps = distil_scales(context, options, student, teacher, text.distillation, progress, loggers, pace)
    losses["calibrated"] = mean_loss(student, text.held_out)
    LOG.info("held-out loss in nats: %s", losses)
    num_distil_tokens = steps * options.distil_batch_size * options.sequence_length_tokens
    figures = {
        "steps": steps,
        "first_loss": losses["rounded"],
        "last_loss": losses["calibrated"],
        "losses_nats": losses,
        "tokens": text.calibration.numel() + num_distil_tokens,
        "seconds": pace.spent_s,
        "compute_dtype": str(dtype).removeprefix("torch."),
    }
    atomic_write_text(run.path / BLOCKS_FILE, figures_text(reports))
    save_model_folder(student, checkpoint.tokenizer, run.final, context.meta | {"step": 0}, figures)
    run.parts.remove()
    pace.finished()
    return figures


def _compute_dtype(wanted: ComputeDtype, parts: PartStore) -> torch.dtype:
    """The configured dtype, or the measured one, which a resumed run has to keep."""
    if wanted is not ComputeDtype.auto:
        return getattr(torch, wanted.value)
    if "dtype" in parts:
        return getattr(torch, parts.load("dtype")[1]["dtype"])
    dtype = wf_ptq.faster_dtype()
    parts.save("dtype", {}, {"dtype": str(dtype).removeprefix("torch.")})
    return dtype


def _read_text(config: TrainConfig, options: TernarizeConfig, tokenizer: Any, vocab_size: int) -> _Text:
    """Raises: RunError (ids of another vocabulary), DataError (too little text)."""
    length, batch_size = options.sequence_length_tokens, options.distil_batch_size
    calibration, held_out = -(-options.tokens // length), -(-options.evaluation_tokens // length)
    most = options.distil_steps * batch_size
    least = most if options.minutes is None else distil_bounds(options.distil_steps).least * batch_size
    wanted, enough = ((calibration + held_out + distil) * length for distil in (most, least))
    ids = token_block(config.data.sources, tokenizer, wanted, length, config.seed, enough)
    try:
        bitnet_arch.check_ids(ids, vocab_size, length)
    except ValueError as error:
        raise RunError(f"calibration text: {error}") from error
    if options.minutes is None:
        return _Text(*ids.split([calibration, most, held_out]))
    # As much of the distillation's text is used as there is time for, so what is surely read comes first.
    parts = ids.split([calibration, held_out, len(ids) - calibration - held_out])
    return _Text(calibration=parts[0], held_out=parts[1], distillation=parts[2])


def _calibrate_blocks(
    walk: Iterable[tuple[str, dict[str, Any]]], num_blocks: int, progress: RichProgress, pace: Pace
) -> list[dict[str, Any]]:
    """The reports of all blocks. Raises: RunError that names the block, for what cannot be solved in it."""
    bar = progress.add_task("calibrating blocks", total=num_blocks)
    reports = []
    try:
        for name, report in walk:
            error, solved = report["stream"], report["stream_solved"]
            LOG.info("%s: relative error %.4f, before refinement %.4f", name, error, solved)
            reports.append({"block": name, "refine_steps": pace.refine_steps(), **report})
            pace.passed()
            progress.advance(bar)
    except wf_ptq.BlockError as error:
        raise RunError(str(error)) from error
    return reports


def _block_options(options: TernarizeConfig) -> wf_ptq.BlockOptions:
    rates = wf_ptq.Rates(options.latent_rate, options.scale_rate, options.vector_rate)
    return wf_ptq.BlockOptions(
        num_moment_sequences=-(-options.moment_tokens // options.sequence_length_tokens),
        solve=wf_ptq.SolveOptions(options.damping, options.num_sweeps),
        refine=wf_ptq.RefineOptions(options.refine_steps, options.refine_batch_size, rates),
    )
