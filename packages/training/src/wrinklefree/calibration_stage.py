"""Stage 1.5: ternary codes and scales chosen on calibration text instead of rounded.

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
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress as RichProgress
from torch import Tensor, nn

import bitnet_arch
import wf_ptq
from data_handler import token_block
from wf_formats.atomic import atomic_write_text
from wrinklefree.allocator import keep_freed_memory
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.checkpoints.part_store import PartStore
from wrinklefree.config.schema import ComputeDtype, TernarizeConfig, TrainConfig
from wrinklefree.conversion_stage import mean_loss
from wrinklefree.datamodule import data_sources
from wrinklefree.dense import load_dense_model
from wrinklefree.errors import RunError
from wrinklefree.loggers import build_loggers
from wrinklefree.run_folder import RunFolder

LOG = logging.getLogger("wrinklefree")
BLOCKS_FILE = "blocks.json"
"""In the run folder: each block's errors (wf_ptq.BlockReport)."""
_DISTILLED = "distilled"


@dataclasses.dataclass(frozen=True)
class _Text:
    """Token ids [sequences, tokens]; no sequence is in two of them."""

    calibration: Tensor
    distillation: Tensor
    held_out: Tensor


def run_calibration(config: TrainConfig, run: RunFolder, start: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Calibrate the checkpoint `start`, save `final`, return the summary's figures."""
    began = time.perf_counter()
    keep_freed_memory()
    options = config.training.ternarize
    checkpoint = bitnet_arch.load_checkpoint(start, dtype=torch.float32)
    student = checkpoint.model.requires_grad_(False)
    text = _read_text(config, checkpoint.tokenizer, student.config.vocab_size)
    dtype = _compute_dtype(options.dtype, run.parts)
    teacher = load_dense_model(config.model.source, config.model.name, dtype)[0].requires_grad_(False)
    losses = {"dense": mean_loss(teacher, text.held_out), "rounded": mean_loss(student, text.held_out)}
    with RichProgress(disable=config.logging.progress_bar.value == "none") as progress:
        reports = _calibrate_blocks(config, run.parts, student, teacher, text.calibration, progress)
        losses["blocks"] = mean_loss(student, text.held_out)
        _distil(config, run, meta, student, teacher, text.distillation, progress)
    losses["calibrated"] = mean_loss(student, text.held_out)
    LOG.info("held-out loss in nats: %s", losses)
    figures = {
        "steps": options.distil_steps,
        "first_loss": losses["rounded"],
        "last_loss": losses["calibrated"],
        "losses_nats": losses,
        "tokens": text.calibration.numel() + text.distillation.numel(),
        "seconds": time.perf_counter() - began,
        "compute_dtype": str(dtype).removeprefix("torch."),
    }
    atomic_write_text(run.path / BLOCKS_FILE, json.dumps(reports, indent=2) + "\n")
    save_model_folder(student, checkpoint.tokenizer, run.final, meta | {"step": 0}, figures)
    run.parts.remove()
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


def _read_text(config: TrainConfig, tokenizer: Any, vocab_size: int) -> _Text:
    """Raises: RunError (ids of another vocabulary), DataError (too little text)."""
    options = config.training.ternarize
    length = options.sequence_length_tokens
    counts = [
        -(-options.tokens // length),
        options.distil_steps * options.distil_batch_size,
        -(-options.evaluation_tokens // length),
    ]
    ids = token_block(data_sources(config.data.sources), tokenizer, sum(counts) * length, length, config.seed)
    try:
        bitnet_arch.check_ids(ids, vocab_size, length)
    except ValueError as error:
        raise RunError(f"calibration text: {error}") from error
    return _Text(*ids.split(counts))


def _calibrate_blocks(
    config: TrainConfig, parts: PartStore, student: Any, teacher: Any, ids: Tensor, progress: RichProgress
) -> list[dict[str, Any]]:
    """Raises: RunError that names the block, for what cannot be solved in it."""
    method = wf_ptq.TernaryMethod(_block_options(config.training.ternarize))
    bar = progress.add_task("calibrating blocks", total=student.config.num_hidden_layers)
    reports = []
    try:
        for name, report in wf_ptq.walk_blocks(student, teacher, ids, method, parts, config.seed):
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


def _distil(
    config: TrainConfig,
    run: RunFolder,
    meta: dict[str, Any],
    student: Any,
    teacher: Any,
    ids: Tensor,
    progress: RichProgress,
) -> None:
    options = config.training.ternarize
    if options.distil_steps == 0:
        return
    rates = wf_ptq.Rates(0.0, options.scale_rate, options.vector_rate)
    distiller = wf_ptq.Distiller(
        student,
        teacher,
        wf_ptq.DistilOptions(options.distil_steps, options.distil_batch_size, options.logit_tokens, rates),
        config.seed,
    )
    parts = run.parts
    if _DISTILLED in parts:
        distiller.load_state(parts.load(_DISTILLED)[0])
        LOG.info("resuming the distillation after step %d", distiller.num_steps_done)
    done = distiller.num_steps_done
    loggers = build_loggers(config, run.path, meta, done)
    bar = progress.add_task("distilling scales", total=options.distil_steps, completed=done)
    for batch in ids.split(options.distil_batch_size)[done:]:
        divergence = distiller.step(batch)
        progress.advance(bar)
        step = distiller.num_steps_done
        for logger in loggers:
            logger.log_metrics({"train/divergence": divergence}, step)
        if step % options.save_every_steps == 0:
            LOG.info("distillation step %d of %d: %.4f nats", step, options.distil_steps, divergence)
            for logger in loggers:
                logger.save()
            parts.save(_DISTILLED, distiller.state(), {"step": step, "divergence_nats": divergence})
    for logger in loggers:
        logger.finalize("success")

    def keep(name: str, block: nn.Module) -> None:
        parts.save(f"{_DISTILLED}.{name}", block.state_dict(), {})
        wf_ptq.take_block(parts, f"{_DISTILLED}.{name}", block)

    distiller.write_back(keep)
