"""The work of stage 1.5: ternary codes and scales chosen on calibration text instead of rounded.

The converted model of stage 1 and its dense original walk through the blocks side by side
(wf_ptq). Each finished block is saved; a run that was stopped takes the finished
blocks, lets their hidden states pass and goes on, with the same result to the bit. Afterwards scales
and gains of all blocks are distilled on further text, saved every few steps.

Memory: the models stay on disk. Both are memory-mapped (the original where its files have the dtype to
compute in), and each block that was worked on is mapped from where it was saved. What is held are four
streams of hidden states [tokens, hidden] with one block's optimizer, and then what distil.py names.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
from wrinklefree.config.ternarize import CalibrationPrecision, TernarizeConfig
from wrinklefree.dense import load_dense_model
from wrinklefree.errors import RunError
from wrinklefree.finite import check_finite, figures_text
from wrinklefree.held_out import mean_loss
from wrinklefree.stages.base import StageContext
from wrinklefree.stages.scales import distil_scales, open_loggers

LOG = logging.getLogger("wrinklefree")
BLOCKS_FILE = "blocks.json"
"""In the run folder: each block's errors (wf_ptq.BlockReport)."""


@dataclasses.dataclass(frozen=True)
class _Text:
    """Token ids [sequences, tokens]; no sequence is in two of them."""

    calibration: Tensor
    distillation: Tensor
    held_out: Tensor


def run_calibration(context: StageContext, options: TernarizeConfig) -> dict[str, Any]:
    """Calibrate the checkpoint `context.start`, save `final`, return the summary's figures."""
    began = time.perf_counter()
    keep_freed_memory()
    bitnet_arch.log_kernels(torch.device("cpu"))
    config, run = context.config, context.run
    loggers = open_loggers(context, options)
    checkpoint = bitnet_arch.load_checkpoint(context.checkpoint, dtype=torch.float32)
    student = checkpoint.model.requires_grad_(False)
    text = _read_text(config, options, checkpoint.tokenizer, student.config.vocab_size)
    precision = _precision(options.precision, run.parts)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    teacher = load_dense_model(config.model.source, config.model.name, dtype)[0].requires_grad_(False)
    losses = {"dense": mean_loss(teacher, text.held_out), "rounded": mean_loss(student, text.held_out)}
    check_finite(losses, "losses_nats")
    with RichProgress(disable=config.logging.progress_bar is ProgressBar.none) as progress:
        method = wf_ptq.TernaryMethod(_block_options(options))
        with _products_in(precision, student):
            walk = wf_ptq.walk_blocks(student, teacher, text.calibration, method, run.parts, config.seed)
            reports = _calibrate_blocks(walk, student.config.num_hidden_layers, progress)
        losses["blocks"] = mean_loss(student, text.held_out)
        with _products_in(precision, student):
            distil_scales(context, options, student, teacher, text.distillation, progress, loggers)
    losses["calibrated"] = mean_loss(student, text.held_out)
    LOG.info("held-out loss in nats: %s", losses)
    figures = {
        "steps": options.distil_steps,
        **_figures(losses, text),
        "seconds": time.perf_counter() - began,
        "precision": precision,
    }
    atomic_write_text(run.path / BLOCKS_FILE, figures_text(reports))
    save_model_folder(student, checkpoint.tokenizer, run.final, context.meta | {"step": 0}, figures)
    run.parts.remove()
    return figures


def _figures(losses: dict[str, float | None], text: _Text) -> dict[str, Any]:
    return {
        "first_loss": losses["rounded"],
        "last_loss": losses["calibrated"],
        "losses_nats": losses,
        "tokens": text.calibration.numel() + text.distillation.numel(),
    }


def _precision(wanted: CalibrationPrecision, parts: PartStore) -> str:
    """The configured one, or the measured one, which a resumed run has to keep."""
    if wanted is not CalibrationPrecision.auto:
        return wanted.value
    if "precision" not in parts:
        parts.save("precision", {}, {"precision": wf_ptq.fastest_precision()})
    found: str = parts.load("precision")[1]["precision"]
    return found


@contextmanager
def _products_in(precision: str, model: Any) -> Iterator[None]:
    bitnet_arch.set_precision(model, precision)
    try:
        yield
    finally:
        bitnet_arch.set_precision(model, "float32")


def _read_text(config: TrainConfig, options: TernarizeConfig, tokenizer: Any, vocab_size: int) -> _Text:
    """Raises: RunError (ids of another vocabulary), DataError (too little text)."""
    length = options.sequence_length_tokens
    counts = [
        -(-options.tokens // length),
        options.distil_steps * options.distil_batch_size,
        -(-options.evaluation_tokens // length),
    ]
    ids = token_block(config.data.sources, tokenizer, sum(counts) * length, length, config.seed)
    try:
        bitnet_arch.check_ids(ids, vocab_size, length)
    except ValueError as error:
        raise RunError(f"calibration text: {error}") from error
    return _Text(*ids.split(counts))


def _calibrate_blocks(
    walk: Iterable[tuple[str, dict[str, Any]]], num_blocks: int, progress: RichProgress
) -> list[dict[str, Any]]:
    """The reports of all blocks. Raises: RunError that names the block, for what cannot be solved in it."""
    bar = progress.add_task("calibrating blocks", total=num_blocks)
    reports = []
    try:
        for name, report in walk:
            error, solved = report["stream"], report["stream_solved"]
            LOG.info("%s: relative error %.4f, before refinement %.4f", name, error, solved)
            reports.append({"block": name, **report})
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
