"""Rows of the ablation: what an arm's runs come to, stored as JSON below OUTPUT/arms when all are done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ablation_arms import ARMS, FULL
from ablation_plot import write_plot
from ablation_runs import Bench, Run

from wf_formats.atomic import atomic_write_json
from wf_formats.environment import environment
from wf_formats.errors import RequestError


def stored(bench: Bench, arm: str) -> dict[str, Any] | None:
    """The row of a finished arm."""
    file = bench.output / "arms" / f"{arm}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def is_done(bench: Bench, arm: str, rates: Sequence[float], seeds: Sequence[int]) -> bool:
    row = stored(bench, arm)
    done = set() if row is None else {seed["seed"] for seed in row["seeds"]}
    return row is not None and {f"{rate:g}" for rate in rates} <= row["rates"].keys() and set(seeds) <= done


def check_teachers(bench: Bench, arms: Sequence[str]) -> None:
    """Raises: RequestError for an arm whose teacher is neither there nor asked for."""
    taught = [arm for arm in arms if ARMS[arm].has_teacher]
    if taught and FULL not in arms and stored(bench, FULL) is None:
        raise RequestError(f"--arms: {taught[0]} is taught by the arm {FULL}: add it to --arms")


def _teacher(bench: Bench, arm: str) -> Path | None:
    """The result of the full-precision arm, for arms that have a teacher."""
    row = stored(bench, FULL) if ARMS[arm].has_teacher else None
    return None if row is None else bench.final(_best(FULL, row, row["seeds"][0]["seed"]))


def _best(arm: str, row: dict[str, Any], seed: int) -> Run:
    return Run(arm, row["rate"], seed)


def finish(bench: Bench, arm: str, rates: Sequence[float], seeds: Sequence[int]) -> None:
    """Sweeps, chooses, measures with every seed, and writes the row. What an earlier one has stays in it."""
    teacher = _teacher(bench, arm)
    before = stored(bench, arm) or {"rates": {}, "seeds": []}
    seeds = list(dict.fromkeys([*(seed["seed"] for seed in before["seeds"]), *seeds]))
    swept = before["rates"] | {f"{rate:g}": bench.train(Run(arm, rate, seeds[0]), teacher) for rate in rates}
    held_out = {rate: (found["accuracy"], -found["answer_perplexity"]) for rate, found in swept.items()}
    best = float(max(held_out, key=held_out.__getitem__))
    found = [_measured(bench, Run(arm, best, seed), teacher) for seed in seeds]
    taught_by = None if teacher is None else str(teacher)
    row = _summed_up(bench, arm, found) | {"teacher": taught_by, "rate": best, "rates": swept}
    atomic_write_json(bench.output / "arms" / f"{arm}.json", row)
    _tidy(bench, arm, row)


def _summed_up(bench: Bench, arm: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and what they were measured on."""
    return {
        "arm": arm,
        "title": ARMS[arm].title,
        "accuracy": mean(seed["accuracy"] for seed in found),
        "stderr": mean(seed["stderr"] for seed in found),
        "answer_perplexity": mean(seed["answer_perplexity"] for seed in found),
        "majority": found[0]["majority"],
        "num_items": found[0]["num_items"],
        "steps": bench.steps,
        "tokens": bench.steps * bench.settings.batch * bench.settings.length,
        "seeds": found,
        **environment("torch", "transformers"),
    }


def _measured(bench: Bench, run: Run, teacher: Path | None) -> dict[str, Any]:
    """A run's figures on the reported items, beside full precision and the arm that it adds to."""
    trained = bench.train(run, teacher)
    found = {"seed": run.seed} | bench.evaluate(run, bench.items.test, "test")
    others = {"against_full": FULL, "against_before": ARMS[run.arm].before}
    for name, other in others.items():
        row = None if other in (None, run.arm) else stored(bench, other)
        if row is not None:
            seeds = [seed["seed"] for seed in row["seeds"]]
            seed = run.seed if run.seed in seeds else seeds[0]
            found[name] = bench.compare(_best(other, row, seed), run)
    return found | {"train_seconds": trained["seconds"], "curve": trained["curve"]}


def _tidy(bench: Bench, arm: str, row: dict[str, Any]) -> None:
    """Of an arm's weights those of the best rate with the first seed stay."""
    kept = _best(arm, row, row["seeds"][0]["seed"]).name
    for folder in (bench.output / "runs").glob(f"{arm}-lr*"):
        if folder.is_dir() and folder.name != kept:
            shutil.rmtree(folder)


def report(bench: Bench) -> None:
    """A line for each finished arm, and the picture."""
    rows = {arm: row for arm in ARMS if (row := stored(bench, arm)) is not None}
    write_plot(rows, FULL, bench.output / "ablation.png")
    for arm, row in rows.items():
        against = row["seeds"][0].get("against_full")
        compared = f"{100 * against['difference']:+.1f}, p {against['p_value']:.2g}" if against else ""
        print(
            f"{arm:14} {100 * row['accuracy']:5.1f} ± {100 * row['stderr']:.1f} %  "
            f"answers {row['answer_perplexity']:.3f}  rate {row['rate']:g}  {compared}"
        )
