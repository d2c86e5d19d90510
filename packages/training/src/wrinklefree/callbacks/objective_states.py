"""Saves and restores the state of the objectives that have one."""

from __future__ import annotations

from typing import Any

import lightning as L

from wrinklefree.module import WrinkleFreeLightningModule


class ObjectiveStates(L.Callback):
    """Nothing is stored where no objective has a state."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, WrinkleFreeLightningModule)
        self._objectives = pl_module.objectives

    def state_dict(self) -> dict[str, Any]:
        return self._objectives.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._objectives.load_state_dict(state_dict)
