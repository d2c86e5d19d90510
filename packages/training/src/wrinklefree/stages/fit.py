"""The work of the stages with gradients: wires model, data, objectives, callbacks and trainer, and fits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import lightning as L
import torch

import bitnet_arch
from wf_formats.errors import NotFiniteError
from wrinklefree import callbacks as cb
from wrinklefree.allocator import keep_freed_memory
from wrinklefree.checkpoints.lightning_io import FolderCheckpointIO
from wrinklefree.checkpoints.sharded_io import ShardedCheckpointIO
from wrinklefree.config.distributed import DistributedKind
from wrinklefree.config.lengths import Lengths, gradient_options, least_steps, run_lengths
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig, Precision, Trained
from wrinklefree.datamodule import WrinkleFreeDataModule
from wrinklefree.errors import DivergedError
from wrinklefree.finite import remedy_for_divergence
from wrinklefree.forward import facts_of, recompute_activations, shape_of
from wrinklefree.loggers import build_loggers
from wrinklefree.mixture.registry import first_sources
from wrinklefree.model_checks import check_model
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree.qk_clip import check_watchable
from wrinklefree.run_folder import RunFolder
from wrinklefree.schedules import make_schedule
from wrinklefree.stages.base import Outcome, StageContext
from wrinklefree.stages.mixture import Probes, data_callbacks, draw_if_steered
from wrinklefree.stages.step_pace import StepPace
from wrinklefree.stages.trainer import build_trainer, quiet_lightning
from wrinklefree.stages.watch import Watch
from wrinklefree.strategies import runs_on_cpu
from wrinklefree.teachers.registry import load_teacher
from wrinklefree.tensor_parallel import check_parts
from wrinklefree.uploads.uploader import Uploader, uploading

LOG = logging.getLogger("wrinklefree")
_LEAST_GROWTH = 1.0
"""Of a loss, and it has doubled: losses near 0 differ by more than that between two batches."""
_SLOW = 2.0
"""Times as long: measured on small products, so less may be noise."""


Prepare: TypeAlias = Callable[[TrainConfig, Any, Any], Any]
"""As `GradientStage.prepare`."""


def run_training(context: StageContext, prepare: Prepare) -> Outcome:
    """Train from `start` or from the run's newest checkpoint; write `final` when complete."""
    with uploading(context.uploads) as uploader:
        return _run_training(context, prepare, uploader)


def _run_training(context: StageContext, prepare: Prepare, uploader: Uploader | None) -> Outcome:
    keep_freed_memory()
    config, run, meta = context.config, context.run, context.meta
    training = gradient_options(config)
    lengths = run_lengths(config)
    pace = _pace(training, lengths, run.path)
    resume_from = run.store.newest(config.resume.allow_previous)
    resume_step = int(resume_from.name.removeprefix("step_")) if resume_from else 0
    loggers = build_loggers(config, run.path, meta, resume_step)
    checkpoint = bitnet_arch.load_checkpoint(context.checkpoint, dtype=torch.float32)
    tokenizer = prepare(config, checkpoint.model, checkpoint.tokenizer)
    module = _build_module(config, checkpoint.model, checkpoint.tokenizer, lengths)
    data = _build_data(config, checkpoint.tokenizer, lengths, context.opened)
    io = _build_io(config, checkpoint.model, tokenizer, meta)
    progress = cb.Progress()
    checkpointing = cb.Checkpointing(
        run.store, io, training.checkpoint.every_steps, training.checkpoint.keep_last, pace.saved, uploader
    )
    stop = cb.GracefulStop(checkpointing)
    of_data = data_callbacks(config, checkpoint.tokenizer, context.opened)
    with quiet_lightning():
        trainer = build_trainer(config, lengths, io, run.path, pace, of_data, [progress, checkpointing, stop])
    if resume_from:
        LOG.info("resuming from %s", resume_from)
    trainer.loggers = loggers
    _fit(trainer, module, data, resume_from)
    outcome = _finish(trainer, module, data, io, run, progress, stop)
    pace.finished()
    if trainer.is_global_zero:
        draw_if_steered(config, run.path)
    if outcome.signal is None:
        _warn_of_ruin(training, outcome.figures)
    if uploader is not None:
        _finish_uploads(uploader, checkpointing, run, outcome)
    return outcome


def _finish_uploads(
    uploader: Uploader, checkpointing: cb.Checkpointing, run: RunFolder, outcome: Outcome
) -> None:
    """Raises: UploadError where the result, or the checkpoint of a run that was stopped, is not uploaded."""
    last = run.store.path(outcome.figures["steps"])
    if outcome.signal is None:
        last = run.final
        uploader.offer(last)
    try:
        uploader.finish(last)
    finally:
        checkpointing.prune()


def _warn_of_ruin(training: GradientConfig, figures: dict[str, Any]) -> None:
    """Where the loss, if it is of the same terms throughout, is now a multiple of what it was."""
    first, last = figures["first_loss"], figures["last_loss"]
    if training.curriculum or training.lambda_warmup_steps or last - first <= max(first, _LEAST_GROWTH):
        return
    LOG.warning(
        "the loss has grown from %.4g to %.4g, so the result is worse than its start: lower "
        "training.learning_rate",
        first,
        last,
    )


def _pace(training: GradientConfig, lengths: Lengths, folder: Path) -> StepPace:
    watch = Watch(folder, "training.minutes", training.minutes)
    least = least_steps(training, lengths.tokens_per_step)
    return StepPace(watch, lengths.max_steps, least, training.checkpoint.every_steps)


def _fit(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, resume_from: Path | None
) -> None:
    """Raises:
    KeyboardInterrupt: where Lightning makes an exit with code 1 of it.
    DivergedError: weights, activations or gradients are no numbers.
    """
    with quiet_lightning():
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
        except SystemExit as end:
            raise KeyboardInterrupt from end
        except NotFiniteError as error:
            remedy = remedy_for_divergence(trainer.global_step)
            raise DivergedError(f"step {trainer.global_step}: {error}: {remedy}") from error


def _build_module(
    config: TrainConfig, model: Any, tokenizer: Any, lengths: Lengths
) -> WrinkleFreeLightningModule:
    training = gradient_options(config)
    check_model(config, facts_of(model))
    objectives = ObjectiveManager.from_config(training.objectives, training.curriculum, lengths.max_steps)
    shape = shape_of(model)
    objectives.check(shape, None, config.distributed.kind.is_sharded)
    teacher = load_teacher(config, tokenizer, objectives.teacher_wishes())
    objectives.check(shape, None if teacher is None else teacher.shape)
    if training.trained is Trained.low_rank:
        bitnet_arch.train_corrections_alone(model)
    bitnet_arch.use_kernels(model)
    if training.qk_clip.threshold is not None:
        check_watchable(model)
    if not config.model.is_dense:
        bitnet_arch.set_precision(model, training.precision.value)
        _warn_of_slow_products(config)
    if training.gradient_checkpointing:
        recompute_activations(model)
    if config.distributed.kind is DistributedKind.tensor_parallel_experimental:
        check_parts(model, config.distributed.devices * config.distributed.num_nodes)
    objectives.attach(model, config.seed)
    return WrinkleFreeLightningModule(
        model,
        teacher,
        objectives,
        config.optimizer,
        training.learning_rate,
        make_schedule(training.schedule, lengths),
        num_sources=len(config.data.sources),
    )


def _warn_of_slow_products(config: TrainConfig) -> None:
    """Where this processor computes the chosen precision more slowly than float32."""
    precision = gradient_options(config).precision
    if precision is Precision.float32 or not runs_on_cpu(config.distributed):
        return
    if precision is Precision.fp8_experimental:
        LOG.warning(
            "training.precision=%s: its products are PyTorch's reference on a CPU, and slow", precision
        )
        return
    times_s = bitnet_arch.product_times_s()
    slowdown = times_s[precision] / times_s["float32"]
    if slowdown > _SLOW:
        LOG.warning(
            "training.precision=%s: its products, those in bfloat16 included, take %.0f times as "
            "long as float32 ones on this processor; training.precision=float32 is faster here",
            precision,
            slowdown,
        )


def _build_data(
    config: TrainConfig, tokenizer: Any, lengths: Lengths, probes: Probes | None
) -> WrinkleFreeDataModule:
    training = gradient_options(config)
    return WrinkleFreeDataModule(
        first_sources(training.mixture, config.data.sources),
        tokenizer,
        training.sequence_length_tokens,
        training.batch_size,
        None if training.minutes is not None else lengths.max_steps * training.accumulate_steps,
        config.seed,
        config.data.num_workers,
        resume_data=config.resume.data,
        accumulate_steps=training.accumulate_steps,
        num_shares=config.data.num_shares,
        num_readers=config.distributed.num_readers,
        held_out=None if probes is None else probes.held_out,
    )


def _build_io(config: TrainConfig, model: Any, tokenizer: Any, meta: dict[str, Any]) -> FolderCheckpointIO:
    where = config.distributed
    if where.kind is not DistributedKind.fsdp:
        return FolderCheckpointIO(model, tokenizer, meta)
    return ShardedCheckpointIO(
        model,
        tokenizer,
        meta,
        in_background=gradient_options(config).checkpoint.in_background,
        num_writers=None if where.shared_output else where.devices,
    )


def _finish(
    trainer: L.Trainer,
    module: WrinkleFreeLightningModule,
    data: WrinkleFreeDataModule,
    io: FolderCheckpointIO,
    run: RunFolder,
    progress: cb.Progress,
    stop: cb.GracefulStop,
) -> Outcome:
    step = trainer.global_step
    summary = {"steps": step, **progress.state_dict(), **data.figures()}
    if step < trainer.max_steps:
        return Outcome(summary, stop.received)
    state = trainer.strategy.lightning_module_state_dict()
    if trainer.is_global_zero or io.is_collective:
        io.save_model(state, run.final, step, summary)
    trainer.strategy.barrier()
    return Outcome(summary)
