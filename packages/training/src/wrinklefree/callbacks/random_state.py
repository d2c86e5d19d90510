"""Saves and restores the random state of every rank (Python, NumPy, torch, CUDA)."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch

from wrinklefree.distributed import gather_from_ranks, own_share


def random_state() -> dict[str, Any]:
    """State of this process: JSON values, tuples and tensors only."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


class RandomState(L.Callback):
    """Restores when training starts, after everything that could draw from the generators."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": gather_from_ranks(random_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = own_share(state_dict["ranks"], "random states")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._restored is not None:
            set_random_state(self._restored)
            self._restored = None
