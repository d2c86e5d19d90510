"""Rows for the sampler, with defaults for what a test does not say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

tk = pytest.importorskip("ternary_kernels")

VOCAB = 1000  # not a multiple of the block of 128, nor of the 32 bits of a word
DEFAULTS: dict[str, tuple[Any, float]] = {
    "temperature": (np.float32, 1.0),
    "top_k": (np.int32, 0),
    "top_p": (np.float32, 1.0),
    "min_p": (np.float32, 0.0),
    "repetition_penalty": (np.float32, 1.0),
    "seeds": (np.uint64, 0),
    "counters": (np.uint64, 0),
    "num_logprobs": (np.int32, -1),
}


def sample(logits: np.ndarray, history: list[list[int]] | None = None, **options: Any) -> Any:
    """tk.sample with defaults; a number stands for all rows, lists of arrays go on as they are."""
    rows = len(logits)
    for name, (dtype, default) in DEFAULTS.items():
        value = options.get(name, default)
        options[name] = np.ascontiguousarray(np.broadcast_to(value, rows), dtype)
    for name in ("presence_penalty", "frequency_penalty"):
        if name in options:
            options[name] = np.ascontiguousarray(np.broadcast_to(options[name], rows), np.float32)
    options["history"] = history or [None] * rows
    for name, dtype in (
        ("history", np.int32),
        ("answers", np.int32),
        ("bias_ids", np.int32),
        ("bias_values", np.float32),
    ):
        if name in options:
            options[name] = [None if row is None else np.array(row, dtype) for row in options[name]]
    return tk.sample(np.ascontiguousarray(logits, np.float32), **options)


def draws(row: np.ndarray, num_draws: int, **options: Any) -> np.ndarray:
    """Tokens drawn from one row with the counters 0 .. num_draws - 1; lists hold one array for all draws."""
    logits = np.broadcast_to(np.asarray(row, np.float32), (num_draws, len(row)))
    repeated = {
        name: value * num_draws if isinstance(value, list) else value for name, value in options.items()
    }
    return sample(logits, counters=np.arange(num_draws), **repeated)[0]


def random_row(seed: int, vocab: int = VOCAB, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, vocab).astype(np.float32)
