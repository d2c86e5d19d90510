"""Saves the run every n steps, keeps the last few checkpoints, and stops gracefully on a signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from torch import Tensor

from wrinklefree.callbacks.base import StepCallback
from wrinklefree.checkpoints.lightning_io import FolderCheckpointIO
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.module import WrinkleFreeLightningModule
from wrinklefree.stages.saving import weight_bytes
from wrinklefree.uploads.uploader import Uploader

LOG = logging.getLogger("wrinklefree")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Checkpointing(StepCallback):
    """Writes `checkpoints/step_XXXXXXXX` through the trainer; removes older ones afterwards.

    One that is written in the background is finished, with its errors, after the first step that finds it
    done on all ranks, before the next one and at the end.

    Args:
        io: what writes them.
        saved: called after each, when the training may go on, with the share of the weights in its bytes, or
            None where it is still written.
        uploader: gets each, in the first process.
    """

    def __init__(
        self,
        store: CheckpointStore,
        io: FolderCheckpointIO,
        every_steps: int,
        keep_last: int,
        saved: Callable[[float | None], None],
        uploader: Uploader | None = None,
    ) -> None:
        self.store = store
        self.every_steps = every_steps
        self.keep_last = keep_last
        self._io = io
        self._saved = saved
        self._uploader = uploader
        self._saved_step = -1
        self._unfinished: Path | None = None

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        if self._unfinished is not None and _of_all(trainer, self._io.is_done):
            self._finish(trainer)
        if self.every_steps and step % self.every_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save the current step, unless it has just been saved. Every rank has to call it."""
        step = trainer.global_step
        if step == self._saved_step:
            return
        self._finish(trainer)
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.store.path(step))
        self._saved_step, self._unfinished = step, self.store.path(step)
        if _of_all(trainer, self._io.is_done):
            self._finish(trainer)
        self._saved(_share_of_weights(trainer) if self._unfinished is None else None)

    def _finish(self, trainer: L.Trainer) -> None:
        """Waits for what is being written. Raises: what has kept it from being."""
        if self._unfinished is None:
            return
        folder, self._unfinished = self._unfinished, None
        self._io.wait()
        if trainer.is_global_zero:
            if self._uploader is not None:
                self._uploader.offer(folder)
            self.prune()
            LOG.info("saved %s", folder)

    def prune(self) -> None:
        """Remove what is not kept, unless it is being uploaded."""
        self.store.prune(self.keep_last, () if self._uploader is None else self._uploader.in_use)


def _share_of_weights(trainer: L.Trainer) -> float:
    """In the bytes of a checkpoint: the others are the optimizer's."""
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    others = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    weights = weight_bytes(trainer.lightning_module)
    return weights / (weights + others)


def _of_all(trainer: L.Trainer, answer: bool) -> bool:
    """Whether it is the answer of all ranks."""
    if trainer.world_size == 1:
        return answer
    return trainer.strategy.reduce_boolean_decision(answer, all=True)


class GracefulStop(StepCallback):
    """SIGTERM or SIGINT: finish the optimizer step, save a checkpoint, leave.

    A second signal acts at once, as it would without this. Any rank may get the signal.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing = checkpointing
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # Now, since Lightning installs its own handlers (which stop without a checkpoint) before.
        self._previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        LOG.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)

    def on_step_end(self, trainer: L.Trainer, module: WrinkleFreeLightningModule, step: int) -> None:
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.received = self.received or signal.SIGTERM
            self.checkpointing.save(trainer)
            trainer.should_stop = True
