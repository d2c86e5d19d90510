"""Trials of a mixing: how many there will be, and the record that survives an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wf_formats.atomic import atomic_write_text
from wf_formats.errors import LoadError, RequestError
from wf_formats.json_file import read_value

RESULT_FILE = "mix.json"
TRIAL_ORDER, TEST_ORDERS = 0, (1, 2, 3)
"""Of the data, as seeds: of the trials that the surface is fitted to; in which the proposed mixture and the
equal one are compared."""
NUM_TESTS = 2 * len(TEST_ORDERS)
"""Small models of that comparison."""
FOLDS = 5
MOST_MIXTURES = 4096


class Trial(NamedTuple):
    """loss: nats a token of the probe."""

    weights: tuple[float, ...]
    seed: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """How many mixtures are tried: a number, or what minutes allow."""

    minutes: float | None
    mixtures: int | None

    def goes_on(self, trials: Sequence[Trial], spent_s: float, least: int) -> bool:
        """Whether another mixture is tried, when so many were. Raises: RequestError where time is too short.

        Args: spent_s: of the whole, earlier starts included.
        """
        if self.mixtures is not None:
            return len(trials) < self.mixtures
        assert self.minutes is not None
        if not trials:
            return True
        trial_s = float(np.median([trial.seconds for trial in trials]))
        left_s = self.minutes * 60 - spent_s - trial_s * NUM_TESTS
        if len(trials) + left_s / trial_s >= least:
            return left_s >= trial_s and len(trials) < MOST_MIXTURES
        if len(trials) >= least:
            return False
        needed = (spent_s + trial_s * (least - len(trials) + NUM_TESTS)) / 60
        raise RequestError(
            f"--minutes {self.minutes:g} are too few: a small model takes {trial_s:.0f} s, and {least} "
            f"mixtures with the test of the result {needed:.1f} minutes; give more, or fewer --steps"
        )

    def total(self, trials: Sequence[Trial], spent_s: float) -> float:
        """About how many mixtures it will be."""
        if self.mixtures is not None or not trials:
            return self.mixtures or 1
        assert self.minutes is not None
        trial_s = float(np.median([trial.seconds for trial in trials]))
        left_s = self.minutes * 60 - spent_s - trial_s * NUM_TESTS
        return min(MOST_MIXTURES, len(trials) + max(0.0, left_s / trial_s))


def least_mixtures(num_sources: int) -> int:
    """As many as the surface has coefficients, and a fold of them more."""
    return num_sources * (num_sources + 1) // 2 + FOLDS


class Record:
    """mix.json: written anew after each trial."""

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self._path, self._request = folder / RESULT_FILE, dict(request)
        self.mixtures: list[Trial] = []
        self.orders: list[Trial] = []
        if self._path.exists():
            self._read()

    def _read(self) -> None:
        """Raises: RequestError where another request is recorded, or this one is complete; LoadError."""
        found = read_value(self._path, LoadError)
        try:
            request, result = found["request"], found["result"]
            different = [
                key for key in {**request, **self._request} if request.get(key) != self._request.get(key)
            ]
            if different:
                there, here = (values.get(different[0]) for values in (request, self._request))
                raise RequestError(
                    f"{self._path.parent} has another request: {different[0]} is {there!r:.200} there and "
                    f"{here!r:.200} here; choose another --output, or begin anew with --force"
                )
            if result is not None:
                raise RequestError(
                    f"{self._path.parent} has the result of this request: choose another --output, or "
                    "replace it with --force"
                )
            self.mixtures, self.orders = (
                [_trial(value) for value in found[key]] for key in ("mixtures", "orders")
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"{self._path} is damaged ({error}): remove it, or give --force") from error

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in [*self.mixtures, *self.orders])

    def write(self, result: Mapping[str, Any] | None = None) -> None:
        value = {
            "files": [RESULT_FILE],
            "request": self._request,
            "mixtures": [trial._asdict() for trial in self.mixtures],
            "orders": [trial._asdict() for trial in self.orders],
            "result": result,
        }
        atomic_write_text(self._path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _trial(value: Mapping[str, Any]) -> Trial:
    return Trial(tuple(value["weights"]), value["seed"], value["loss"], value["seconds"])
