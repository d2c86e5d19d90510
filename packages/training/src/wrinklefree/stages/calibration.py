"""The work of stage 1.5: ternary codes and scales chosen on calibration text instead of rounded.

The converted model of stage 1 and its dense original walk through the blocks side by side
(wf_ptq). Each finished block is saved; a run that was stopped takes the finished
blocks, lets their hidden states pass and goes on, with the same result to the bit. Afterwards scales,
gains and embeddings are distilled on further text, saved every few steps. With `keep_codes` that is all: a
finished result is distilled further.

Memory: the models stay on disk. Both are memory-mapped (the original where its files have the dtype to
compute in), and each block that was worked on is mapped from where it was saved. What is held are four
streams of hidden states [tokens, hidden] with one block's optimizer, and then what distil.py names.

How many steps there are, and what is said of the time that is left: pace.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import Progress as RichProgress
from torch import Tensor

import bitnet_arch
from wf_formats.atomic import atomic_write_text
from wrinklefree.allocator import keep_freed_memory
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.checkpoints.part_store import PartStore
from wrinklefree.config.logging import ProgressBar
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.ternarize import CalibrationPrecision, TernarizeConfig
from wrinklefree.config.training import ContinuingConfig
from wrinklefree.dense import load_dense_model
from wrinklefree.errors import RunError
from wrinklefree.finite import check_finite, figures_text
from wrinklefree.forward import facts_of
from wrinklefree.held_out import mean_loss, warn_if_worse
from wrinklefree.model_checks import check_context
from wrinklefree.stages.base import StageContext
from wrinklefree.stages.block_walk import read_tokens
from wrinklefree.stages.blocks import calibrate_blocks
from wrinklefree.stages.budget import distil_bounds
from wrinklefree.stages.pace import Pace
from wrinklefree.stages.saving import saving_s, weight_bytes
from wrinklefree.stages.scales import distil_scales, open_loggers

LOG = logging.getLogger("wrinklefree")
BLOCKS_FILE = "blocks.json"
"""In the run folder: each block's refinement steps and errors (wf_ptq.BlockReport)."""


@dataclasses.dataclass(frozen=True)
class _Text:
    """Token ids [sequences, tokens]; no sequence is in two of them."""

    calibration: Tensor
    distillation: Tensor
    held_out: Tensor


def run_calibration(context: StageContext, options: TernarizeConfig) -> dict[str, Any]:
    """Calibrate the checkpoint `context.start`, save `final`, return the summary's figures.

    Raises:
        RunError: codes would be chosen from what another stage has left of the weights, or kept that were
            never chosen; sequences longer than the model's context.
    """
    pace = Pace(options, context.run)
    keep_freed_memory()
    bitnet_arch.log_kernels(torch.device("cpu"))
    config, run = context.config, context.run
    loggers = open_loggers(context, options)
    checkpoint = bitnet_arch.load_checkpoint(context.checkpoint, dtype=torch.float32)
    _check_codes(context, options, checkpoint.meta)
    student = checkpoint.model.requires_grad_(False)
    check_context(
        "training.ternarize.sequence_length_tokens",
        options.sequence_length_tokens,
        facts_of(student),
    )
    text = _read_text(config, options, checkpoint.tokenizer, student.config.vocab_size)
    precision = _precision(options.precision, run.parts, bitnet_arch.quantizer(config.model.scheme))
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    teacher = load_dense_model(config.model.source, config.model.name, dtype)[0].requires_grad_(False)
    pace.loaded(saving_s(run.path, weight_bytes(student)))
    first = "kept" if options.keep_codes else "rounded"
    losses = {"dense": mean_loss(teacher, text.held_out), first: mean_loss(student, text.held_out)}
    check_finite(losses, "losses_nats")
    num_blocks = 0 if options.keep_codes else student.config.num_hidden_layers
    pace.prepared(num_blocks, len(text.distillation) // options.distil_batch_size)
    with RichProgress(disable=config.logging.progress_bar is ProgressBar.none) as progress:
        if not options.keep_codes:
            with _products_in(precision, student):
                reports = calibrate_blocks(
                    context, options, student, teacher, text.calibration, progress, pace
                )
            atomic_write_text(run.path / BLOCKS_FILE, figures_text(reports))
            losses["blocks"] = mean_loss(student, text.held_out)
        with _products_in(precision, student):
            steps = distil_scales(
                context, options, student, teacher, text.distillation, progress, loggers, pace
            )
    losses["calibrated"] = mean_loss(student, text.held_out)
    LOG.info("held-out loss in nats: %s", losses)
    warn_if_worse(losses, first, "calibrated", "lower training.ternarize.*_rate, or give more tokens")
    num_distil_tokens = steps * options.distil_batch_size * options.sequence_length_tokens
    figures = {
        "steps": steps,
        "first_loss": losses[first],
        "last_loss": losses["calibrated"],
        "losses_nats": losses,
        "tokens": text.calibration.numel() + num_distil_tokens,
        "seconds": pace.spent_s,
        "precision": precision,
    }
    save_model_folder(student, checkpoint.tokenizer, run.final, context.meta | {"step": 0}, figures)
    run.parts.remove()
    pace.finished()
    return figures


def _check_codes(context: StageContext, options: TernarizeConfig, meta: dict[str, Any]) -> None:
    """Raises: as `run_calibration`."""
    training, stage = context.config.training, meta.get("stage")
    assert isinstance(training, ContinuingConfig)
    is_rounded = stage in training.accept_from
    if options.keep_codes != is_rounded:
        return
    if is_rounded:
        raise RunError(
            f"{context.checkpoint} is a result of {stage}, whose codes are plain rounding: leave "
            "training.ternarize.keep_codes out, and they are chosen"
        )
    raise RunError(
        f"{context.checkpoint} is a result of {stage}, whose full-precision weights are gone: start from "
        f"that of {' or '.join(training.accept_from)}, or distil this one further with "
        "training.ternarize.keep_codes=true"
    )


def _precision(wanted: CalibrationPrecision, parts: PartStore, quantizer: bitnet_arch.Quantizer) -> str:
    """The configured one, or the measured one, which a resumed run has to keep."""
    if wanted is not CalibrationPrecision.auto:
        return wanted.value
    if "precision" not in parts:
        fastest = bitnet_arch.fastest_precision(quantizer.has_integer_products)
        parts.save("precision", {}, {"precision": fastest})
    found: str = parts.load("precision")[1]["precision"]
    return found


@contextmanager
def _products_in(precision: str, model: Any) -> Iterator[None]:
    """Float32 again afterwards; an error leaves the model in pieces, as nothing that could be set."""
    bitnet_arch.set_precision(model, precision)
    yield
    bitnet_arch.set_precision(model, "float32")


def _read_text(config: TrainConfig, options: TernarizeConfig, tokenizer: Any, vocab_size: int) -> _Text:
    """Raises: as `read_tokens`."""
    length, batch_size = options.sequence_length_tokens, options.distil_batch_size
    calibration = 0 if options.keep_codes else -(-options.tokens // length)
    held_out = -(-options.evaluation_tokens // length)
    most = options.distil_steps * batch_size
    least = most if options.minutes is None else distil_bounds(options.distil_steps).least * batch_size
    wanted, enough = (calibration + held_out + distil for distil in (most, least))
    ids = read_tokens(config, tokenizer, vocab_size, wanted, length, enough)
    if options.minutes is None:
        return _Text(*ids.split([calibration, most, held_out]))
    # As much of the distillation's text is used as there is time for, so what is surely read comes first.
    parts = ids.split([calibration, held_out, len(ids) - calibration - held_out])
    return _Text(calibration=parts[0], held_out=parts[1], distillation=parts[2])
