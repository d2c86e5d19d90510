"""Steering the mixture while a small model trains from nothing: four domains, one of noise, equal tokens.

    uv run python packages/training/benchmarks/mixture.py --data ../shared/data --output outputs/mixture \\
        --minutes 60 > mixture.json

Arms, each with every seed:

    fixed:*      a small grid of shares: the real domains alike, or one of them half of the data; noise 0.05
    uniform      a fifth each
    odm          arXiv 2312.02406, a turn a step
    influence    a probe of the four domains, alike

Documents are cut into pieces of 700 characters, or a batch would be one of them. Probe and test are other
documents of the domains' validation splits, the probe's four domains alike in one set; no document is in
both, and the loader keeps the probe's out of training. The number of steps is what fits into --minutes, from
a short run that is measured first; all arms have as many. Prints JSON: for each arm the loss on the test text
(nats a token, mean of the four domains, and its standard error over the seeds), paired differences to the
best fixed one, the shares at the end, the step from which noise stays at the floor, and what scoring took of
the time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixture_material import DOMAINS, LENGTH_TOKENS, NOISE, Material

import bitnet_arch
from wf_formats.environment import environment
from wrinklefree.train import main as train

FLOOR, BATCH, TURNS = 0.05, 8, 10
MEASURED_STEPS, SETUP_S = 12, 6.0
SPARE = 0.85
"""Of the time that is planned into steps: scoring, loading and saving take the rest."""


@dataclass(frozen=True)
class Arm:
    policy: str
    shares: tuple[float, ...] = (0.2,) * 5
    """Of the domains in their order, then of noise."""
    settings: tuple[str, ...] = ()


def arms() -> dict[str, Arm]:
    """By name."""
    alike = ((1 - FLOOR) / 4,) * 4
    found = {"fixed:alike": Arm("fixed", (*alike, FLOOR))}
    for number, name in enumerate(DOMAINS):
        rest = (1 - FLOOR - 0.5) / 3
        shares = tuple(0.5 if number == other else rest for other in range(len(DOMAINS)))
        found[f"fixed:{name}"] = Arm("fixed", (*shares, FLOOR))
    return found | {
        "uniform": Arm("uniform"),
        "odm": Arm("odm", settings=("training.mixture.every_steps=1",)),
        "influence": Arm("influence"),
    }


class Trials:
    """Runs of the arms below `output`, all with as many steps."""

    def __init__(self, material: Material, output: Path, options: argparse.Namespace) -> None:
        self.material, self.output, self.options = material, output, options
        self._starts: dict[int, Path] = {}

    def _common(self, experiment: str, seed: int) -> list[str]:
        return [
            f"output_dir={self.output}",
            f"experiment={experiment}",
            f"seed={seed}",
            f"num_threads={self.options.threads}",
            "force=true",
            "logging.progress_bar=none",
            f"model.scheme={self.options.scheme}",
            "model.source=path",
            f"model.name={self.material.folder / f'model_{seed}'}",
        ]

    def start(self, seed: int) -> Path:
        """The result of stage 1: the model as it is, or its weights rounded."""
        if seed not in self._starts:
            self.material.model(seed)
            first = f"{{kind: path, name: text, location: {self.material.train['openstax']}}}"
            arguments = ["training=stage1_subln", *self._common(f"start-{seed}", seed)]
            _run([*arguments, f"data.sources=[{first}]", "training.fit.evaluation_tokens=0"])
            self._starts[seed] = self.output / f"start-{seed}" / "stage1" / "final"
        return self._starts[seed]

    def run(self, name: str, arm: Arm, seed: int, num_steps: int) -> Path:
        start, experiment = self.start(seed), f"{name.replace(':', '-')}-{seed}"
        shares = dict(zip([*DOMAINS, NOISE], arm.shares, strict=True))
        sources = _listed(self.material.train, shares)
        probe = _listed({"probe": self.material.probe}, {"probe": 1.0})
        steering = [f"training.mixture.influence.probes={probe}"] if arm.policy == "influence" else []
        _run(
            [
                "training=stage2_pretrain",
                *self._common(experiment, seed),
                f"training.start_from={start}",
                f"data.sources={sources}",
                f"training.max_steps={num_steps}",
                f"training.batch_size={BATCH}",
                f"training.sequence_length_tokens={LENGTH_TOKENS}",
                f"training.learning_rate={self.options.rate}",
                "training.schedule.warmup=0.05",
                "training.checkpoint.every_steps=0",
                "logging.console_every_steps=1000000",
                f"training.mixture.policy={arm.policy}",
                f"training.mixture.every_steps={max(1, num_steps // TURNS)}",
                f"training.mixture.floor={FLOOR}",
                f"training.mixture.influence.step_size={self.options.step_size}",
                *steering,
                *arm.settings,
            ]
        )
        return self.output / experiment / "stage2"


def _listed(files: dict[str, str], weights: dict[str, float]) -> str:
    entries = [f"{{kind: path, name: {n}, location: {f}, weight: {weights[n]}}}" for n, f in files.items()]
    return f"[{', '.join(entries)}]"


def _run(arguments: list[str]) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        code = train(arguments)
    if code:
        raise SystemExit(f"a run ended with {code}: {' '.join(arguments)}")


def _outcome(material: Material, run: Path) -> dict[str, Any]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = [
        {n: float(row[f"mixture/{n}"]) for n in [*DOMAINS, NOISE]} for row in rows if "mixture/noise" in row
    ]
    above = [int(row["step"]) for row, s in zip(rows, shares, strict=False) if s[NOISE] > FLOOR + 1e-6]
    scoring_s = sum(float(row.get("train/scoring_s") or 0) for row in rows)
    losses = material.test_losses(run / "final")
    seconds = json.loads((run / "summary.json").read_text())["seconds"]
    return {
        "test_loss": statistics.fmean(losses.values()),
        "test_losses": losses,
        "last_shares": shares[-1] if shares else None,
        "noise_at_floor_from_step": max(above, default=0) + 1 if shares else None,
        "scoring_share": scoring_s / (seconds + scoring_s),
    }


def _summary(found: list[dict[str, Any]], best: list[dict[str, Any]]) -> dict[str, Any]:
    """Args: best are the outcomes of the best fixed arm, by seed."""
    losses = [each["test_loss"] for each in found]
    differences = [one["test_loss"] - two["test_loss"] for one, two in zip(found, best, strict=True)]
    shares = [each["last_shares"] for each in found if each["last_shares"]]
    return {
        "test_loss": round(statistics.fmean(losses), 4),
        "standard_error": _standard_error(losses),
        "over_best_fixed": round(statistics.fmean(differences), 4),
        "standard_error_of_it": _standard_error(differences),
        "last_shares": {n: round(statistics.fmean(s[n] for s in shares), 3) for n in [*DOMAINS, NOISE]}
        if shares
        else None,
        "noise_at_floor_from_step": [each["noise_at_floor_from_step"] for each in found],
        "scoring_share": round(statistics.fmean(each["scoring_share"] for each in found), 4),
        "by_seed": [round(loss, 4) for loss in losses],
    }


def _standard_error(values: list[float]) -> float | None:
    return round(statistics.stdev(values) / math.sqrt(len(values)), 4) if len(values) > 1 else None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/DOMAIN/*.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--minutes", type=float, default=60.0, help="of all runs together")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", default=",".join(arms()), help="separated by commas (default: %(default)s)")
    parser.add_argument("--scheme", default="group64", help="none: a dense model (default: %(default)s)")
    parser.add_argument(
        "--hidden", type=int, default=128, help="128: 1.1 million parameters, 256: 3.9 million"
    )
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate")
    parser.add_argument("--step-size", type=float, default=10.0, help="eta of the influence policy")
    parser.add_argument("--steps", type=int, help="instead of those that fit")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = parse()
    chosen = {name: arms()[name] for name in options.arms.split(",")}
    output = options.output.absolute()
    material = Material(options.data.absolute(), output / "material", options.hidden)
    trials = Trials(material, output, options)
    start_s = time.perf_counter()
    measured = json.loads(
        (trials.run("measured", Arm("fixed"), 0, MEASURED_STEPS) / "summary.json").read_text()
    )
    left_s = 60 * options.minutes - (time.perf_counter() - start_s)
    num_runs = len(chosen) * options.seeds
    step_s = measured["seconds"] / MEASURED_STEPS
    num_steps = options.steps or int((SPARE * left_s / num_runs - SETUP_S) / step_s)
    if num_steps < 2 * TURNS:
        raise SystemExit(f"{num_steps} steps a run fit; give more --minutes, or fewer --arms or --seeds")
    outcomes = {
        name: [_outcome(material, trials.run(name, arm, seed, num_steps)) for seed in range(options.seeds)]
        for name, arm in chosen.items()
    }
    fixed = [name for name, arm in chosen.items() if arm.policy == "fixed"] or list(chosen)
    best = min(fixed, key=lambda name: statistics.fmean(each["test_loss"] for each in outcomes[name]))
    report = {
        "benchmark": "steering the mixture, four domains and noise",
        "best_fixed": best,
        "arms": {name: _summary(found, outcomes[best]) for name, found in outcomes.items()},
        "steps": num_steps,
        "turn_every_steps": max(1, num_steps // TURNS),
        "tokens": num_steps * BATCH * LENGTH_TOKENS,
        "seeds": options.seeds,
        "parameters": sum(p.numel() for p in bitnet_arch.load_checkpoint(trials.start(0)).model.parameters()),
        "scheme": options.scheme,
        "step_size": options.step_size,
        "minutes": round((time.perf_counter() - start_s) / 60, 1),
        **environment("torch", "transformers", "lightning"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
