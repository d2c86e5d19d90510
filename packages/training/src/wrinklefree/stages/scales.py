"""The last part of stage 1.5: scales, gains and embeddings are distilled together (wf_ptq.Distiller).

Saved every few steps; a run that was stopped goes on from the saved state, with the same result to the bit.
"""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch.loggers import Logger
from rich.progress import Progress as RichProgress
from torch import Tensor, nn

import wf_ptq
from wf_formats.errors import NotFiniteError
from wrinklefree.checkpoints.part_store import PartStore
from wrinklefree.config.ternarize import TernarizeConfig
from wrinklefree.errors import DivergedError
from wrinklefree.loggers import build_loggers
from wrinklefree.stages.base import StageContext
from wrinklefree.stages.pace import Pace

LOG = logging.getLogger("wrinklefree")
_DISTILLED = "distilled"
_REMEDY = "lower training.ternarize.scale_rate, vector_rate or embedding_rate"


def open_loggers(context: StageContext, options: TernarizeConfig) -> list[Logger]:
    """Those of the distillation, before hours of other work; none without steps. Raises: RunError."""
    if options.distil_steps == 0:
        return []
    parts = context.run.parts
    done = parts.load(_DISTILLED)[1]["step"] if _DISTILLED in parts else 0
    return build_loggers(context.config, context.run.path, context.meta, done)


def distil_scales(
    context: StageContext,
    options: TernarizeConfig,
    student: Any,
    teacher: Any,
    ids: Tensor,
    progress: RichProgress,
    loggers: list[Logger],
    pace: Pace,
) -> int:
    """Returns the number of steps.

    Args:
        ids: [sequences, tokens], as many as the steps may take; none are used without steps.
        loggers: of `open_loggers`.
        pace: says how many steps.
    Raises:
        DivergedError: activations or the divergence are no numbers.
    """
    if options.distil_steps == 0:
        return 0
    distiller = wf_ptq.Distiller(student, teacher, _options(options), context.config.seed)
    parts = context.run.parts
    if _DISTILLED in parts:
        distiller.load_state(parts.load(_DISTILLED)[0])
        LOG.info("resuming the distillation after step %d", distiller.num_steps_done)
    _steps(context, options, distiller, ids, progress, loggers, pace)

    def keep(name: str, block: nn.Module) -> None:
        parts.save(f"{_DISTILLED}.{name}", block.state_dict(), {})
        wf_ptq.take_block(parts, f"{_DISTILLED}.{name}", block)

    distiller.write_back(keep)
    return distiller.num_steps_done


def _steps(
    context: StageContext,
    options: TernarizeConfig,
    distiller: wf_ptq.Distiller,
    ids: Tensor,
    progress: RichProgress,
    loggers: list[Logger],
    pace: Pace,
) -> None:
    """The steps that are left. Raises: DivergedError."""
    batches = ids.split(options.distil_batch_size)
    bar = progress.add_task("distilling", total=None)
    pace.distilling()
    while (done := distiller.num_steps_done) < (num_steps := pace.distil_steps(done)):
        distiller.num_steps = num_steps
        try:
            divergence = distiller.step(batches[done])
        except NotFiniteError as error:
            raise DivergedError(f"distillation step {done + 1}: {error}: {_REMEDY}") from error
        progress.update(bar, total=num_steps, completed=done + 1)
        _record(distiller, divergence, options, loggers, context.run.parts)
        pace.distilled(done + 1, divergence)
    for logger in loggers:
        logger.finalize("success")


def _options(options: TernarizeConfig) -> wf_ptq.DistilOptions:
    rates = wf_ptq.Rates(0.0, options.scale_rate, options.vector_rate, options.embedding_rate)
    return wf_ptq.DistilOptions(options.distil_steps, options.distil_batch_size, options.logit_tokens, rates)


def _record(
    distiller: wf_ptq.Distiller,
    divergence: float,
    options: TernarizeConfig,
    loggers: list[Logger],
    parts: PartStore,
) -> None:
    """Log a step, and save the state after every few."""
    step = distiller.num_steps_done
    for logger in loggers:
        logger.log_metrics({"train/divergence": divergence}, step)
    if step % options.save_every_steps == 0:
        LOG.info("distillation step %d of %d: %.4f nats", step, distiller.num_steps, divergence)
        for logger in loggers:
            logger.save()
        parts.save(_DISTILLED, distiller.state(), {"step": step, "divergence_nats": divergence})
