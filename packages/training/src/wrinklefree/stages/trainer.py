"""Lightning's trainer of a stage with gradients: callbacks in their order, strategy, silence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L

from wrinklefree import callbacks as cb
from wrinklefree.checkpoints.lightning_io import FolderCheckpointIO
from wrinklefree.config.lengths import Lengths, gradient_options
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import Precision
from wrinklefree.stages.step_pace import StepPace
from wrinklefree.strategies import build_strategy, cluster_environment


def build_trainer(
    config: TrainConfig,
    lengths: Lengths,
    io: FolderCheckpointIO,
    folder: Path,
    pace: StepPace,
    data_callbacks: list[L.Callback],
    run_callbacks: list[L.Callback],
) -> L.Trainer:
    """Args: data_callbacks look at the sources of the data, run_callbacks count, save and stop."""
    training, where = gradient_options(config), config.distributed
    progress, *last = run_callbacks
    weights = [cb.ObjectiveWeights()] if training.curriculum else []
    fade = [] if config.model.is_dense else [cb.LambdaWarmup(training.lambda_warmup_steps)]
    log = cb.StepLog(config.logging.every_steps, config.logging.console_every_steps, pace.left_s)
    strategy = build_strategy(where, io)
    bar = cb.progress_bars(config.logging.progress_bar)
    return L.Trainer(
        accelerator=where.accelerator,
        strategy=strategy,
        devices=where.devices,
        num_nodes=where.num_nodes,
        precision="32-true" if training.precision is Precision.float32 else "bf16-mixed",
        plugins=[cluster_environment(), *([io] if strategy == "auto" else [])],
        default_root_dir=folder,  # nothing is looked for in the working directory
        # The order matters: metrics first, then who writes them, then who saves and stops.
        callbacks=[
            *fade,
            cb.WeightDecay(config.optimizer.weight_decay_share),
            *weights,
            cb.ZClip(training.zclip),
            cb.RandomState(),
            *([cb.QkClip(training.qk_clip)] if training.qk_clip.threshold is not None else []),
            cb.PassCount(),
            *([cb.Ema(training.ema_decay)] if training.ema_decay is not None else []),
            cb.ObjectiveStates(),
            progress,
            cb.Pacing(pace, training, lengths.tokens_per_step),
            *data_callbacks,
            log,
            *bar,
            *last,
        ],
        max_steps=lengths.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate_steps,
        deterministic=config.deterministic,
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=bool(bar),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advertisements and a deprecation inside it; its other warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        # On a login node `srun` is there, whether or not this run has to do with it.
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
        # FSDP warns of in-place operations on the model's outputs; nothing here does any.
        warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module .* returned a view.*")
        yield
