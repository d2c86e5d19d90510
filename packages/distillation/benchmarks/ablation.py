"""What each part of the recipe gives on a task: the arms of ablation_arms.py on the same items and tokens.

    uv run python packages/distillation/benchmarks/ablation.py --data ../shared/data --output outputs/ablation
    uv run python packages/distillation/benchmarks/ablation.py ... --arms full,calibrated,both --seeds 0,1,2 \
        --rates full=1e-5,3e-5 --rates both=1e-4

1. Divide the items: to train on, held out (learning rates are chosen by them), and to report.
2. Time a few steps of each arm and some answers, and print what the whole will take.
3. Per arm: train with each rate and the first seed; the rate with the best accuracy on the held-out items
   (then the likeliest answers) is trained with the other seeds; each answers the reported items.
4. Per arm one JSON row below OUTPUT/arms: accuracy with its standard error, perplexity of the right answers,
   loss curves, McNemar's test against full precision and the arm that it adds to; and OUTPUT/ablation.png.

Ended at any time, the same call goes on: finished arms, runs and answers are not repeated, and a run resumes
from its newest checkpoint. Further arms, rates and seeds may be asked for later; other sizes need another
folder.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from ablation_arms import ARMS
from ablation_items import SPLITS, Items, divide, pack
from ablation_plan import Cost, check_budget, measured
from ablation_rows import check_teachers, finish, is_done, report
from ablation_runs import Bench, Settings

import bitnet_arch
from wf_formats.atomic import atomic_write_json
from wf_formats.boundary import boundary
from wf_formats.errors import RequestError
from wrinklefree.stages.registry import stages

N = TypeVar("N", int, float)
_SETTINGS_FILE = "settings.json"


def main() -> None:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the child is stopped as with Ctrl-C
    with boundary():
        arms = _chosen(options.arms)
        rates = _rates(options.rates, arms)
        seeds = _numbers("--seeds", options.seeds, int)
        bench = _bench(options)
        check_teachers(bench, arms)
        todo = [arm for arm in arms if not is_done(bench, arm, rates[arm], seeds)]
        _plan(bench, {arm: len(rates[arm]) for arm in todo}, len(seeds), options.minutes)
        for arm in todo:
            finish(bench, arm, rates[arm], seeds)
        report(bench)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with eval/TASK and pretrain/*")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", choices=SPLITS, default="qnli")
    parser.add_argument("--model", help="folder of a dense model (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--calibrated", type=Path, help="a result of stage 1.5, instead of making one")
    parser.add_argument("--calibration-minutes", type=float, default=20)
    parser.add_argument("--items", type=_count, default=4000, help="to train on (default: 4000)")
    parser.add_argument("--held-out", type=_count, default=500, help="to choose rates by (default: 500)")
    parser.add_argument("--eval-items", type=_count, help="to report (default: all)")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--arms", default="all", help=f"all or some of {','.join(ARMS)}")
    parser.add_argument(
        "--rates",
        action="append",
        default=[],
        metavar="[ARM=]RATE,...",
        help="learning rates; repeat for more arms",
    )
    parser.add_argument("--seeds", default="0", help="the first one is swept (default: 0)")
    parser.add_argument("--batch", type=_count, default=4, help="sequences of a step (default: 4)")
    parser.add_argument("--length", type=_count, default=512, help="tokens of a sequence (default: 512)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--minutes", type=float, help="most time for an arm; one that needs more is refused")
    return parser


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _chosen(text: str) -> list[str]:
    """Arms in the order of the table. Raises: RequestError for unknown ones, or stages that are not there."""
    installed = {stage.number for stage in stages()}
    lacking = {name: sorted(arm.stages - installed) for name, arm in ARMS.items()}
    if text == "all":
        return [name for name in ARMS if not lacking[name]]
    names = text.split(",")
    for name in names:
        if name not in ARMS:
            raise RequestError(f"--arms {text}: there is no arm {name!r}; known: {', '.join(ARMS)}")
        if lacking[name]:
            raise RequestError(
                f"--arms {text}: {name} needs stage {lacking[name][0]}, which is not installed"
            )
    return [name for name in ARMS if name in names]


def _rates(texts: Sequence[str], arms: Sequence[str]) -> dict[str, list[float]]:
    """By arm. Raises: RequestError for what is no rate, or for an arm that is not asked for."""
    found = {arm: list(ARMS[arm].rates) for arm in arms}
    for text in texts:
        name, _, values = text.rpartition("=")
        if name and name not in found:
            raise RequestError(
                f"--rates {text}: there is no arm {name!r} among those asked for: {', '.join(arms)}"
            )
        found |= dict.fromkeys([name] if name else arms, _numbers("--rates", values, float))
    return found


def _numbers(option: str, text: str, kind: type[N]) -> list[N]:
    """Raises: RequestError for what are no numbers of that kind."""
    try:
        return [kind(value) for value in text.split(",")]
    except ValueError as error:
        wanted = "whole numbers such as 0,1,2" if kind is int else "numbers such as 1e-4,3e-4"
        raise RequestError(f"{option} {text}: give {wanted}") from error


def _bench(options: argparse.Namespace) -> Bench:
    """Raises: RequestError for what is not there, or other settings than the folder was made with."""
    output, data = options.output.resolve(), options.data.resolve()
    calibrated = None if options.calibrated is None else options.calibrated.resolve()
    if calibrated is not None and not calibrated.is_dir():
        raise RequestError(f"--calibrated {calibrated}: there is no such folder")
    names = [field.name for field in fields(Settings)]
    settings = Settings(**{name: getattr(options, name) for name in names})
    _check_same(output / _SETTINGS_FILE, asdict(settings))
    sizes = (settings.items, settings.held_out, settings.eval_items)
    items = divide(settings.task, data, output / "items", *sizes)
    atomic_write_json(output / _SETTINGS_FILE, asdict(settings))
    return Bench(output, data, items, settings, _num_steps(settings, items), calibrated)


def _check_same(file: Path, settings: dict[str, Any]) -> None:
    """Raises: RequestError naming what differs from the folder's first call."""
    before = json.loads(file.read_text()) if file.is_file() else settings
    for name, value in settings.items():
        if before[name] != value:
            raise RequestError(
                f"{file.parent} was made with {name}={before[name]}, not {value}: choose another --output"
            )


def _num_steps(settings: Settings, items: Items) -> int:
    """Of every run; says how well the items fill their sequences."""
    source = ("packaged", None) if settings.model is None else ("path", settings.model)
    packed = pack(items, settings.task, bitnet_arch.open_dense(*source).tokenizer, settings.length)
    print(
        f"{settings.items} items: {packed.sequences} sequences of {settings.length} tokens, "
        f"{packed.text_tokens / packed.sequences / settings.length:.0%} filled, "
        f"{packed.labels / packed.text_tokens:.1%} of their tokens with a label",
        flush=True,
    )
    return max(1, round(settings.epochs * packed.sequences / settings.batch))


def _plan(bench: Bench, num_rates: dict[str, int], num_seeds: int, minutes: float | None) -> None:
    if num_rates:
        step_seconds, answer_seconds = measured(bench, list(num_rates))
        costs = {
            arm: Cost(step_seconds[arm], answer_seconds, count + num_seeds - 1, num_seeds)
            for arm, count in num_rates.items()
        }
        check_budget(bench, costs, minutes)


if __name__ == "__main__":
    main()
