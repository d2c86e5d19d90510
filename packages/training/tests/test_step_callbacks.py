"""Callbacks that change weights or optimizer once a step, in a run of a plain Lightning trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from wrinklefree import callbacks as cb
from wrinklefree.course import Course

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:.*num_workers.*",
    "ignore:.*`srun` command is available",  # on a login node, with which this has nothing to do
)


class Pulled(L.LightningModule):
    """One weight that each step moves from 0 by 1; keeps what it was and the weight decay after each step."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.course = Course(num_steps)
        self.weight = nn.Parameter(torch.zeros(2))
        self.decays: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        (group,) = self.trainer.optimizers[0].param_groups
        self.decays.append(group["weight_decay"])
        return -self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0, weight_decay=0.25)


def fitted(callback: L.Callback, max_steps: int, folder: Path, stop_at: int | None = None) -> Pulled:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            trainer.should_stop |= trainer.global_step == stop_at

    module = Pulled(max_steps)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=[callback, Stop()],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(list(torch.zeros(20, 1))))
    return module


@pytest.fixture(autouse=True)
def accept_plain_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "weight_decay"):
        monkeypatch.setattr(f"wrinklefree.callbacks.{name}.WrinkleFreeLightningModule", L.LightningModule)


@pytest.mark.parametrize(("share", "steps_with"), [(1.0, 6), (0.5, 3), (0.4, 3), (0.0, 0)])
def test_weight_decay_ends_after_its_share(share: float, steps_with: int, tmp_path: Path) -> None:
    module = fitted(cb.WeightDecay(share), 6, tmp_path)
    assert module.decays == [0.25] * steps_with + [0.0] * (6 - steps_with)


def test_a_complete_run_ends_with_the_average(tmp_path: Path) -> None:
    weight = average = 0.0
    for step in range(1, 7):
        weight += 1 - 0.25 * weight
        average += (1 - min(0.6, (1 + step) / (10 + step))) * (weight - average)
    module = fitted(cb.Ema(0.6), 6, tmp_path)
    torch.testing.assert_close(module.weight.detach(), torch.full((2,), average))


def test_a_stopped_run_keeps_its_weights(tmp_path: Path) -> None:
    module = fitted(cb.Ema(0.6), 6, tmp_path, stop_at=2)
    torch.testing.assert_close(module.weight.detach(), torch.full((2,), 1.75))
