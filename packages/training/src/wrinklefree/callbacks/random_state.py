"""Saves and restores the random state of every rank (Python, NumPy, torch, CUDA).

Of another number of ranks each takes one of those that are there: all begin with the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch

from wrinklefree.distributed import gather_from_ranks, rank


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
    for device, of_device in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(of_device, device)


class RandomState(L.Callback):
    """Restores when training starts, after everything that could draw from the generators."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": gather_from_ranks(random_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = state_dict["ranks"]
        self._restored = ranks[rank() % len(ranks)]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._restored is not None:
            set_random_state(self._restored)
            self._restored = None


@contextmanager
def kept_random_state() -> Iterator[None]:
    """What is drawn inside is not missing afterwards."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
