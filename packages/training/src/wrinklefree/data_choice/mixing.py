"""Proposes the weights of a mixture: tries mixtures on small models, fits a surface, tests what it proposes.

    FOLDER/mix.json      the request, every trial that was made, and at the end the result
    FOLDER/.proxies/     the models, while it works

1. Mixtures are tried one after the other, the equal one first, as many as the time allows (`Plan`).
2. The surface of `data_handler.corpus.regression` is fitted; each trial is also predicted by a fit that has
   not seen it, and the rank correlation of these predictions with what was measured is reported.
3. The proposed mixture and the equal one are trained in further orders of the data (`TEST_ORDERS`): no trial
   of the fit is one of the test. Only if the proposed one is better, by more than chance (a paired t-test,
   one-sided, 5 %), are its weights the result.

A trial is on the disk when it is done: the same request goes on after an interruption, and its time counts.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_handler.corpus.domains import Domain, Reading
from data_handler.corpus.regression import (
    best_mixture,
    fit,
    held_out_predictions,
    rank_correlation,
    sample_mixtures,
)
from data_handler.corpus.score_file import described_files
from wrinklefree.data_choice.probes import open_model, refuse_probe_in
from wrinklefree.data_choice.progress import bar
from wrinklefree.data_choice.trials import (
    FOLDS,
    MOST_MIXTURES,
    NUM_TESTS,
    RESULT_FILE,
    TEST_ORDERS,
    TRIAL_ORDER,
    Plan,
    Record,
    Trial,
    least_mixtures,
)
from wrinklefree.data_choice.working import working_folder

_CRITICAL_T = 2.92
"""Student's t at 95 % with as many degrees of freedom as there are TEST_ORDERS, less one: 2."""
_PROXIES_FOLDER = ".proxies"


@dataclass(frozen=True)
class MixRequest:
    """steps: of each small model; model: whose tokenizer they have."""

    domains: Sequence[Domain]
    probe: Domain
    reading: Reading
    steps: int
    model: str
    seed: int

    def to_json(self, plan: Plan) -> dict[str, Any]:
        """What a start has to have in common with the one that it goes on from: not the minutes."""
        return {
            "sources": {domain.name: described_files(domain) for domain in self.domains},
            "probe": described_files(self.probe),
            "steps": self.steps,
            "mixtures": plan.mixtures,
            "test_orders": list(TEST_ORDERS),
            "model": self.model,
            "seed": self.seed,
            "text_column": self.reading.text_column,
            "text_unit": self.reading.text_unit.value,
        }


def run_mix(request: MixRequest, plan: Plan, folder: Path, begun_s: float, force: bool) -> dict[str, Any]:
    """The result, which mix.json has too.

    Args: begun_s: of time.monotonic(), when this start began.

    Raises: UserError.
    """
    tokenizer = open_model(request.model).tokenizer
    with working_folder(folder, (RESULT_FILE, _PROXIES_FOLDER), force):
        record = Record(folder, request.to_json(plan))
        characters = refuse_probe_in(request.domains, request.probe, request.reading)
        from wrinklefree.data_choice.proxies import STEP_TOKENS, Proxies  # Lightning takes seconds

        work = folder / _PROXIES_FOLDER
        proxies = Proxies(work, tokenizer, request.domains, request.probe, request.reading, request.steps)
        with bar("training small models", 1.0) as shown:
            names = [domain.name for domain in request.domains]
            result = propose(
                names,
                proxies.loss,
                record,
                plan,
                request.seed,
                begun_s,
                lambda done, total, note: shown.update(done / total, note),
            )
        result |= {"characters": characters, "step_tokens": request.steps * STEP_TOKENS}
        result |= {"probe_tokens": proxies.num_probe_tokens}
        record.write(result)
        shutil.rmtree(work)
        return result


def propose(
    names: Sequence[str],
    loss_of: Callable[[Mapping[str, float], int], float],
    record: Record,
    plan: Plan,
    seed: int,
    begun_s: float,
    tell: Callable[[float, float, str], None],
) -> dict[str, Any]:
    """The result; each trial is recorded when it is done.

    Args:
        loss_of: trains a model of a mixture in an order of the data.
        begun_s: of time.monotonic(), when this start began.
        tell: gets how many models are done, about how many it will be, and a word.

    Raises:
        RequestError: the plan has too little time.
    """
    before_s = record.seconds

    def spent_s() -> float:
        return before_s + time.monotonic() - begun_s

    def tried(weights: Sequence[float], order: int, trials: list[Trial]) -> None:
        start_s = time.monotonic()
        plain = tuple(float(weight) for weight in weights)
        loss = loss_of(dict(zip(names, plain, strict=True)), order)
        trials.append(Trial(plain, order, loss, time.monotonic() - start_s))
        record.write()

    least = least_mixtures(len(names))
    mixtures = sample_mixtures(len(names), MOST_MIXTURES, seed)
    while not record.orders and plan.goes_on(record.mixtures, spent_s(), least):
        total = plan.total(record.mixtures, spent_s()) + NUM_TESTS
        best = min((trial.loss for trial in record.mixtures), default=math.nan)
        tell(len(record.mixtures), total, f"{len(record.mixtures)} mixtures, least loss {best:.3f}")
        tried(mixtures[len(record.mixtures)], TRIAL_ORDER, record.mixtures)
    found = _fitted(record.mixtures, seed)
    equal = record.mixtures[0].weights
    pairs = [(weights, order) for order in TEST_ORDERS for weights in (equal, found.weights)]
    for weights, order in pairs[len(record.orders) :]:
        num_done = len(record.mixtures) + len(record.orders)
        tell(num_done, len(record.mixtures) + len(pairs), f"testing, order {order} of {len(TEST_ORDERS)}")
        tried(weights, order, record.orders)
    return _result(names, found, record)


@dataclass(frozen=True)
class _Found:
    weights: tuple[float, ...]
    predicted: float
    predicted_equal: float
    rank_correlation: float | None


def _fitted(trials: Sequence[Trial], seed: int) -> _Found:
    weights, losses = (
        np.array([trial.weights for trial in trials]),
        np.array([trial.loss for trial in trials]),
    )
    surface = fit(weights, losses)
    best = best_mixture(surface, weights, seed)
    predicted, predicted_equal = surface.predict(np.stack([best, weights[0]]))
    folds = held_out_predictions(weights, losses, min(FOLDS, len(losses)))
    return _Found(
        tuple(float(weight) for weight in best),
        float(predicted),
        float(predicted_equal),
        rank_correlation(folds, losses),
    )


def _result(names: Sequence[str], found: _Found, record: Record) -> dict[str, Any]:
    equal, proposed = ([trial.loss for trial in record.orders[place::2]] for place in (0, 1))
    gains = np.subtract(equal, proposed)
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))
    is_better = gain > _CRITICAL_T * error and gain > 0
    weights = found.weights if is_better else record.mixtures[0].weights
    return {
        "weights": dict(zip(names, weights, strict=True)),
        "is_better_than_equal": is_better,
        "proposed": dict(zip(names, found.weights, strict=True)),
        "gain_nats": gain,
        "gain_standard_error": error,
        "equal_losses": equal,
        "proposed_losses": proposed,
        "predicted_loss": found.predicted,
        "predicted_equal_loss": found.predicted_equal,
        "held_out_rank_correlation": found.rank_correlation,
        "num_mixtures": len(record.mixtures),
        "seconds": record.seconds,
    }
