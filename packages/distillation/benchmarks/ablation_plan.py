"""How long the arms will take: a few measured steps of each, and measured answers.

Steps are timed beside whatever else the machine does; the fastest counts. Arms that start from a result
which is not there yet are timed from the rounded weights, and with the dense original as teacher, which have
the same shapes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ablation_arms import ARMS, STARTS
from ablation_runs import Bench, Run, step_seconds

from wf_formats.atomic import atomic_write_json
from wf_formats.errors import RequestError

_PROBE_STEPS = 3
_PROBE_ITEMS = (2, 48)
"""Loading the model takes as long for few items as for many."""


@dataclass(frozen=True)
class Cost:
    """Of one arm, in seconds: a step, an answer; runs are trainings, seeds those that are reported."""

    step_seconds: float
    answer_seconds: float
    runs: int
    seeds: int

    def training_minutes(self, steps: int) -> float:
        return self.runs * steps * self.step_seconds / 60

    def answering_minutes(self, num_held_out: int, num_test: int) -> float:
        return (self.runs * num_held_out + self.seeds * num_test) * self.answer_seconds / 60


def measured(bench: Bench, arms: Sequence[str]) -> tuple[dict[str, float], float]:
    """Seconds of a step by arm, and of an answer; measured once for an output folder."""
    file = bench.output / "plan.json"
    known = json.loads(file.read_text()) if file.is_file() else {"step_seconds": {}}
    for arm in arms:
        if arm not in known["step_seconds"]:
            known["step_seconds"][arm] = _step(bench, arm)
            atomic_write_json(file, known)
    if "answer_seconds" not in known:
        known["answer_seconds"] = _answer(bench)
        atomic_write_json(file, known)
    return {arm: known["step_seconds"][arm] for arm in arms}, known["answer_seconds"]


def _step(bench: Bench, arm: str) -> float:
    start = ARMS[arm].start
    while (before := STARTS[start].after) is not None:
        start = before
    output, settings = bench.output / "probes", bench.settings
    folder = bench.train_steps(Run(arm, 1e-6, 0), None, _PROBE_STEPS, output, start)
    seconds = step_seconds(folder, settings.batch * settings.length)
    shutil.rmtree(output)
    return seconds


def _answer(bench: Bench) -> float:
    few, many = (
        bench.ask(
            bench.start("rounded"),
            bench.items.held_out,
            bench.output / "answers" / f"plan-{count}.jsonl",
            count,
        )
        for count in _PROBE_ITEMS
    )
    seconds = many["evaluation_seconds"] - few["evaluation_seconds"]
    return max(0.0, seconds / (many["num_items"] - few["num_items"]))


def check_budget(bench: Bench, costs: Mapping[str, Cost], minutes: float | None) -> None:
    """Prints the plan. Raises: RequestError for an arm that does not fit, with the items that would."""
    settings = bench.settings
    fitting = []
    for arm, cost in costs.items():
        training = cost.training_minutes(bench.steps)
        answering = cost.answering_minutes(settings.held_out, bench.items.num_test)
        print(
            f"{arm:14} {cost.runs} runs of {bench.steps} steps of {cost.step_seconds:.1f} s: "
            f"{training:.0f} min of training, {answering:.0f} of answers"
        )
        if minutes is not None and training + answering > minutes:
            fitting.append(int((minutes - answering) / training * settings.items))
    if fitting and minutes is not None:
        advice = f"--items {min(fitting)} would fit" if min(fitting) > 0 else "give fewer --eval-items"
        raise RequestError(
            f"--minutes {minutes:g} for an arm are too few: {advice}, or fewer --rates or --seeds"
        )
