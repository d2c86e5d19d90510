"""What the runs of the steering benchmark came to: a line each, means over the seeds, a picture."""

from __future__ import annotations

import csv
import json
import math
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mixture_material import DOMAINS, FLOOR, NOISE, Material

from wf_formats.atomic import atomic_file

SOURCES = [*DOMAINS, NOISE]
NEAR = 0.001
"""A share is at the floor if it is no further from it."""


def outcome(material: Material, run: Path) -> dict[str, Any]:
    """Of a run that has ended, whose weights are removed then."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = [{n: float(row[f"mixture/{n}"]) for n in SOURCES} for row in rows if row.get("mixture/noise")]
    above = [number for number, each in enumerate(shares, 1) if each[NOISE] > FLOOR + NEAR]
    scoring_s = sum(float(row.get("train/scoring_s") or 0) for row in rows)
    losses = material.test_losses(run / "final")
    seconds = json.loads((run / "summary.json").read_text())["seconds"]
    shutil.rmtree(run / "final")
    return {
        "test_loss": statistics.fmean(losses.values()),
        "test_losses": losses,
        "shares": [list(each.values()) for each in shares],
        "noise_at_floor_from_step": max(above, default=0) + 1 if shares else None,
        "scoring_share": scoring_s / (seconds + scoring_s),
    }


class Outcomes:
    """Lines of a file, each with the settings of its run; those of other settings are passed over."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._found: dict[tuple[str, int], dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            found = json.loads(line)
            if found["settings"] == settings:
                self._found[found["arm"], found["seed"]] = found

    def has(self, arm: str, seed: int) -> bool:
        return (arm, seed) in self._found

    def add(self, arm: str, seed: int, found: dict[str, Any]) -> None:
        found = {"arm": arm, "seed": seed, "settings": self._settings} | found
        before = self._path.read_text() if self._path.exists() else ""
        with atomic_file(self._path) as path:
            path.write_text(before + json.dumps(found) + "\n")
        self._found[arm, seed] = found

    def of(self, arm: str) -> dict[int, dict[str, Any]]:
        """By seed."""
        return {seed: found for (name, seed), found in self._found.items() if name == arm}

    def summary(self, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
        """Over the seeds that all arms have."""
        common = [seed for seed in seeds if all(self.has(arm, seed) for arm in arms)]
        if not common:
            return {"seeds": [], "arms": {}}
        found = {arm: [self._found[arm, seed] for seed in common] for arm in arms}
        fixed = [arm for arm in arms if arm.startswith("fixed")] or list(arms)
        best = min(fixed, key=lambda arm: statistics.fmean(each["test_loss"] for each in found[arm]))
        summaries = {arm: _summary(each, found[best]) for arm, each in found.items()}
        return {"seeds": common, "best_fixed": best, "arms": summaries}


def _summary(found: list[dict[str, Any]], best: list[dict[str, Any]]) -> dict[str, Any]:
    """Args: best are the outcomes of the best fixed arm, by seed."""
    losses = [each["test_loss"] for each in found]
    differences = [one["test_loss"] - two["test_loss"] for one, two in zip(found, best, strict=True)]
    last = [each["shares"][-1] for each in found if each["shares"]]
    return {
        "test_loss": round(statistics.fmean(losses), 4),
        "standard_error": _standard_error(losses),
        "over_best_fixed": round(statistics.fmean(differences), 4),
        "standard_error_of_it": _standard_error(differences),
        "last_shares": dict(
            zip(SOURCES, (round(statistics.fmean(x), 3) for x in zip(*last, strict=True)), strict=False)
        ),
        "noise_at_floor_from_step": [each["noise_at_floor_from_step"] for each in found],
        "scoring_share": round(statistics.fmean(each["scoring_share"] for each in found), 4),
        "by_seed": [round(loss, 4) for loss in losses],
    }


def _standard_error(values: list[float]) -> float | None:
    return round(statistics.stdev(values) / math.sqrt(len(values)), 4) if len(values) > 1 else None


def draw(outcomes: Outcomes, arms: Sequence[str], path: Path) -> None:
    """Losses by arm, a point a seed; shares by step of the arms that move, a line a seed."""
    moving = [arm for arm in arms if any(_moves(each) for each in _values(outcomes, arm))]
    figure = Figure(figsize=(7.6, 3.0 + 2.2 * len(moving)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(moving), 1, squeeze=False)[:, 0]
    for number, arm in enumerate(arms):
        losses = [each["test_loss"] for each in _values(outcomes, arm)]
        axes[0].plot(losses, [number] * len(losses), "o", color="C0", alpha=0.5)
        axes[0].plot([statistics.fmean(losses)], [number], "|", color="black", ms=16)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("loss on the test text, nats a token")
    for axis, arm in zip(axes[1:], moving, strict=True):
        for each in _values(outcomes, arm):
            for number, line in enumerate(zip(*each["shares"], strict=True)):
                axis.plot(range(1, len(line) + 1), line, color=f"C{number}", lw=1, alpha=0.7)
        axis.set_ylabel(f"shares, {arm}", fontsize=9)
        axis.set_ylim(0)
        axis.legend(axis.lines[: len(SOURCES)], SOURCES, frameon=False, fontsize=8, ncols=len(SOURCES))
    axes[-1].set_xlabel("step" if moving else axes[-1].get_xlabel())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as made:
        figure.savefig(made, dpi=130, format="png")


def _values(outcomes: Outcomes, arm: str) -> list[dict[str, Any]]:
    return list(outcomes.of(arm).values())


def _moves(found: dict[str, Any]) -> bool:
    return len(set(map(tuple, found["shares"]))) > 1
