"""The work of stage 2.5: low-rank corrections solved block by block on calibration text (wf_ptq.low_rank).

The ternary model and its dense original walk through the blocks side by side. Each finished block is saved;
a run that was stopped takes those and goes on, with the same result to the bit. What the correction does to
the loss on text that nothing was solved on is among the figures.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.progress import Progress as RichProgress
from torch import Tensor

import bitnet_arch
import wf_ptq
from bitnet_arch.checkpoint import read_config
from bitnet_arch.low_rank import check_model_rank
from wf_formats.atomic import atomic_write_text
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.logging import ProgressBar
from wrinklefree.config.low_rank import LowRankConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.dense import load_dense_model
from wrinklefree.finite import figures_text
from wrinklefree.forward import facts_of
from wrinklefree.held_out import finite_loss, warn_if_worse
from wrinklefree.model_checks import check_context
from wrinklefree.stages.base import StageContext
from wrinklefree.stages.block_walk import read_tokens, walk

LOG = logging.getLogger("wrinklefree")
CORRECTIONS_FILE = "corrections.json"
"""In the run folder: each block's errors (wf_ptq.LowRankReport)."""


def check_rank_of(folder: Path, rank: int) -> None:
    """Raises: ConfigError for a rank that does not fit the checkpoint's matrices, CheckpointError."""
    config = read_config(folder)
    model_class: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        model = model_class(config)
    try:
        check_model_rank(model, rank)
    except ValueError as error:
        raise ConfigError(f"training.low_rank.rank={rank}: {error}") from error


def run_correction(context: StageContext, options: LowRankConfig) -> dict[str, Any]:
    """Correct the checkpoint `context.start`, save `final`, return the summary's figures."""
    start = time.perf_counter()
    config, run = context.config, context.run
    bitnet_arch.log_kernels(torch.device("cpu"))
    checkpoint = bitnet_arch.load_checkpoint(context.checkpoint, dtype=torch.float32)
    student = checkpoint.model.requires_grad_(False)
    check_context(
        "training.low_rank.sequence_length_tokens",
        options.sequence_length_tokens,
        facts_of(student),
    )
    calibration, held_out = _read_text(config, options, checkpoint.tokenizer, student.config.vocab_size)
    teacher = load_dense_model(config.model.source, config.model.name)[0].requires_grad_(False)
    losses = {
        name: finite_loss(model, held_out, name)
        for name, model in (("dense", teacher), ("quantized", student))
    }
    bitnet_arch.install_low_rank(student, options.rank)
    added = bitnet_arch.correction_bits_per_weight(student)
    LOG.info("corrections of rank %d add %.3f bits per weight", options.rank, added)
    reports = _correct_blocks(context, options, student, teacher, calibration)
    losses["corrected"] = finite_loss(student, held_out, "corrected")
    LOG.info("held-out loss in nats: %s", losses)
    warn_if_worse(losses, "quantized", "corrected", "give more tokens, or another training.low_rank.damping")
    figures = {
        "steps": 0,
        "first_loss": losses["quantized"],
        "last_loss": losses["corrected"],
        "losses_nats": losses,
        "rank": options.rank,
        "added_bits_per_weight": added,
        "tokens": calibration.numel(),
        "seconds": time.perf_counter() - start,
    }
    atomic_write_text(run.path / CORRECTIONS_FILE, figures_text(reports))
    save_model_folder(student, checkpoint.tokenizer, run.final, context.meta | {"step": 0}, figures)
    run.parts.remove()
    return figures


def _correct_blocks(
    context: StageContext, options: LowRankConfig, student: Any, teacher: Any, ids: Tensor
) -> list[dict[str, Any]]:
    """The reports of all blocks. Raises: as `walk`."""
    method = wf_ptq.LowRankMethod.between(student, teacher, options.damping)
    reports = []
    with RichProgress(disable=context.config.logging.progress_bar is ProgressBar.none) as progress:
        bar = progress.add_task("correcting blocks", total=student.config.num_hidden_layers)
        for name, report in walk(context, student, teacher, ids, method, "low_rank"):
            before, after = report["stream_before"], report["stream"]
            LOG.info("%s: relative error %.4f, without correction %.4f", name, after, before)
            reports.append({"block": name, **report})
            progress.advance(bar)
    return reports


def _read_text(
    config: TrainConfig, options: LowRankConfig, tokenizer: Any, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """For the corrections and for the comparison, [sequences, tokens]. Raises: as `read_tokens`."""
    length = options.sequence_length_tokens
    calibration, held_out = -(-options.tokens // length), -(-options.evaluation_tokens // length)
    ids = read_tokens(config, tokenizer, vocab_size, calibration + held_out, length)
    return ids[:calibration], ids[calibration:]
