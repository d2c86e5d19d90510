"""Steering the mixture while a small model trains from nothing: four domains, one of noise, equal tokens.

    uv run python packages/training/benchmarks/mixture.py --data ../shared/data --output outputs/mixture \\
        --steps 100 --plot mixture.png > mixture.json

Arms, each with every seed:

    fixed:*      a small grid of shares: the real domains alike, or one of them half of the data; noise 0.05
    uniform      a fifth each
    odm          arXiv 2312.02406, a turn a step
    influence    a probe of the four domains, alike

Documents are cut into pieces of 700 characters, or a batch would be one of them. Probe and test are other
documents of the domains' validation splits, the probe's four domains alike in one set; no document is in
both, and the loader keeps the probe's out of training. All arms have as many steps; ten turns of `influence`.

OUTPUT/outcomes.jsonl gets a line for each run that is done, and the same command goes on after them, also
after `kill -9`; with --minutes no run begins later. Prints JSON over the seeds that all arms have: for each
arm the loss on the test text (nats a token, mean of the four domains, and its standard error), paired
differences to the best fixed one, the shares at the end, the step from which noise stays at the floor, and
what scoring took of the time. --plot draws them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixture_material import DOMAINS, FLOOR, LENGTH_TOKENS, NOISE, Material
from mixture_outcomes import Outcomes, draw, outcome

from wf_formats.environment import environment
from wrinklefree.train import main as train

BATCH, TURNS = 8, 10


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

    def settings(self) -> dict[str, Any]:
        """What runs that are compared have in common."""
        options = self.options
        return {
            "steps": options.steps,
            "turn_every_steps": max(1, options.steps // TURNS),
            "scheme": options.scheme,
            "hidden": options.hidden,
            "rate": options.rate,
            "step_size": options.step_size,
        }

    def run(self, name: str, arm: Arm, seed: int) -> Path:
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
                f"training.max_steps={self.options.steps}",
                f"training.batch_size={BATCH}",
                f"training.sequence_length_tokens={LENGTH_TOKENS}",
                f"training.learning_rate={self.options.rate}",
                "training.schedule.warmup=0.05",
                "training.checkpoint.every_steps=0",
                "logging.console_every_steps=1000000",
                f"training.mixture.policy={arm.policy}",
                f"training.mixture.every_steps={self.settings()['turn_every_steps']}",
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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/DOMAIN/*.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=100, help="of each run (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="no run begins later; the same command goes on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="choose settings on other seeds")
    parser.add_argument("--plot", type=Path, help="picture of losses and shares")
    parser.add_argument("--arms", default=",".join(arms()), help="separated by commas (default: %(default)s)")
    parser.add_argument("--scheme", default="group64", help="none: a dense model (default: %(default)s)")
    parser.add_argument(
        "--hidden", type=int, default=128, help="128: 1.1 million parameters, 256: 3.9 million"
    )
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate")
    parser.add_argument("--step-size", type=float, default=10.0, help="eta of the influence policy")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = parse()
    chosen = {name: arms()[name] for name in options.arms.split(",")}
    output = options.output.absolute()
    material = Material(options.data.absolute(), output / "material", options.hidden)
    trials = Trials(material, output, options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    outcomes = Outcomes(output / "outcomes.jsonl", trials.settings())
    start_s = time.perf_counter()
    for seed in seeds:
        for name, arm in chosen.items():
            if options.minutes and time.perf_counter() - start_s > 60 * options.minutes:
                break
            if not outcomes.has(name, seed):
                outcomes.add(name, seed, outcome(material, trials.run(name, arm, seed)))
    report = {
        "benchmark": "steering the mixture, four domains and noise",
        **outcomes.summary(list(chosen), seeds),
        **trials.settings(),
        "tokens": options.steps * BATCH * LENGTH_TOKENS,
        **environment("torch", "transformers", "lightning"),
    }
    print(json.dumps(report, indent=2))
    if options.plot:
        draw(outcomes, list(chosen), options.plot)


if __name__ == "__main__":
    main()
