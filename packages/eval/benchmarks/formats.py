"""One model in several formats: quality against size and speed, in a table and a picture.

    uv run python packages/eval/benchmarks/formats.py original/F16=f16.gguf original/Q4_1=q4_1.gguf \
        ours/ternary=ternary.gguf --text wiki.jsonl.gz --tasks arc_easy,piqa --data-dir DATA --output FOLDER

Models are [FAMILY/]LABEL=PATH; a family has one colour. Each is scored by the engine that serves it: native,
else llama.cpp, else (folders) PyTorch, which says nothing about speed. Speed is `wf bench`'s: each engine in
a process of its own, all models and engines in turns, medians of tokens per second of processor time (with
one thread what an undisturbed core gives, as far as others leave the memory alone); llama.cpp is timed beside
the native engine wherever it runs the file. Memory is the resident set of such a process with one sequence,
the interpreter included.

What a model scored stands in OUTPUT/LABEL.json and is not measured again for the same file and settings, so
that models may be scored one by one. Writes OUTPUT/formats.json and OUTPUT/formats.png, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_handler.readers import read_documents
from wf_formats.atomic import atomic_file, atomic_write_json
from wf_formats.digests import model_sha256
from wf_formats.environment import OtherProcesses, environment
from wf_formats.errors import UserError
from wf_formats.targets import check_way
from wrinklefree_eval.errors import EvalRequestError
from wrinklefree_eval.models import ModelKind
from wrinklefree_eval.opening import open_model
from wrinklefree_eval.perplexity import measure
from wrinklefree_eval.readable import check_reading
from wrinklefree_eval.task_files import OUR_TASKS
from wrinklefree_eval.task_runner import run_tasks
from wrinklefree_inference.bench.plan import BenchOptions, Test
from wrinklefree_inference.bench.report import model_bytes
from wrinklefree_inference.bench.session import EngineProcess
from wrinklefree_inference.errors import EngineError

PEER = "llamacpp"
COLUMNS = ("MB", "RSS MB", "engine", "perplexity", "nats a token", "prompt", "generation")
PEER_COLUMNS = ("prompt, llama.cpp", "generation, llama.cpp")


@dataclass
class Format:
    """One model, and what is found out about it."""

    label: str
    path: Path
    family: str
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By engine: memory_bytes and tokens per second of each test, or `error`."""
    quality: dict[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """What serves it."""
        return next((name for name, found in self.engines.items() if "error" not in found), "pytorch")

    @property
    def megabytes(self) -> float:
        """Of the file, or of a folder's weights."""
        return model_bytes(self.path) / 1e6


def parse_model(text: str) -> Format:
    """Of "[FAMILY/]LABEL=PATH"."""
    name, _, path = text.partition("=")
    family, _, label = name.rpartition("/")
    if not label or not path:
        raise EvalRequestError(f"a model is [FAMILY/]LABEL=PATH, got {text!r}")
    return Format(label, Path(path), family or label)


def time_engines(formats: Sequence[Format], tests: Sequence[Test], repeats: int, threads: int) -> None:
    """Fills `engines`: all processes stay loaded and take turns."""
    with ExitStack() as stack:
        workers: list[tuple[EngineProcess, dict[str, Any], dict[Test, list[float]]]] = []
        for model in formats:
            plan = BenchOptions(model.path, tests[0].tokens, tests[1].tokens, batch="1", num_threads=threads)
            for engine in ("native", PEER):
                worker = stack.enter_context(EngineProcess(engine, plan))
                found = model.engines[engine] = {}
                try:
                    worker.answer()
                    for test in tests:
                        worker.seconds(test)  # warms up
                except EngineError as error:
                    found["error"] = str(error)
                else:
                    workers.append((worker, found, {test: [] for test in tests}))
        for repeat in range(repeats):
            for test in tests:
                for worker, _, runs_s in workers if repeat % 2 == 0 else workers[::-1]:
                    runs_s[test].append(worker.seconds(test, "processor"))
        for worker, found, runs_s in workers:
            found["memory_bytes"] = worker.ask({"memory": True})
            for test, each_s in runs_s.items():
                speeds = [test.total_tokens / run_s for run_s in each_s]
                found[test.kind] = {"tokens_per_s": statistics.median(speeds), "runs_tokens_per_s": speeds}


def score(model: Format, args: argparse.Namespace) -> None:
    """Fills `quality`, from the file of an earlier run where it fits."""
    kept = args.output / f"{model.label}.json"
    asked = {
        "sha256": model_sha256(model.path),
        "engine": model.engine,
        "text": args.text.name,
        "settings": [args.context, args.max_tokens, args.tasks, args.limit],
    }
    if kept.is_file():
        model.quality = json.loads(kept.read_text())
        if {key: model.quality.get(key) for key in asked} == asked:
            return
    kind = {"native": ModelKind.NATIVE, PEER: ModelKind.GGUF}.get(model.engine)
    opened = open_model(model.path, args.context, kind, args.threads)
    try:
        found = measure(opened, read_documents(args.text), args.text.name, None, args.max_tokens)
        tasks = args.tasks and run_tasks(opened.harness(4), args.tasks, OUR_TASKS, args.data_dir, args.limit)
    finally:
        opened.close()
    model.quality = asked | {"perplexity": found.to_json(), "tasks": tasks or {}}
    atomic_write_json(kept, model.quality)


def row(model: Format) -> list[str]:
    """Cells of the table."""
    served, peer = (
        model.engines.get(model.engine, {}),
        model.engines[PEER] if model.engine == "native" else {},
    )
    memory = served["memory_bytes"]["rss"] / 1e6 if served else None
    found = model.quality["perplexity"]
    cells = [f"{model.megabytes:.1f}", _number(memory), model.engine, f"{found['perplexity']:.2f}"]
    cells.append(f"{found['nll']:.3f} ± {found['nll_stderr']:.3f}")
    cells += [_speed(engine, kind) for engine in (served, peer) for kind in ("prompt", "generate")]
    for scores in model.quality["tasks"].values():
        name = "acc" if "acc" in scores else next(iter(scores))
        cells.append(f"{scores[name]:.3f} ± {scores.get(f'{name}_stderr', 0):.3f}")
    return cells


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _speed(engine: dict[str, Any], kind: str) -> str:
    return _number(engine[kind]["tokens_per_s"] if kind in engine else None)


def apart(values: Sequence[float], gap: float) -> list[float]:
    """The values, moved up where less than `gap` is between one and the next."""
    found, least = list(values), -math.inf
    for index in sorted(range(len(found)), key=found.__getitem__):
        found[index] = least = max(found[index], least + gap)
    return found


def draw(formats: Sequence[Format], path: Path) -> None:
    """Perplexity against megabytes, and against tokens per second where there is an engine that serves it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    logs = [math.log(model.quality["perplexity"]["perplexity"]) for model in formats]
    low, high = min(logs), max(max(logs), min(logs) + 0.5)
    gap = 0.07 * (high - low)
    places = apart([height + gap for height in logs], gap)
    _dress(axes, math.exp(low - 0.1 * (high - low)), math.exp(max(high, *places) + 0.1 * (high - low)))
    families = list(dict.fromkeys(model.family for model in formats))
    for model, height, place in zip(formats, map(math.exp, logs), map(math.exp, places), strict=True):
        color, marker = f"C{families.index(model.family)}", "o" if model.engine == "native" else "s"
        speed = model.engines.get(model.engine, {}).get("generate", {}).get("tokens_per_s")
        line = {"arrowstyle": "-", "color": color, "lw": 0.6, "relpos": (0, 0.5), "shrinkA": 0}
        beside = {"textcoords": ("offset points", "data"), "fontsize": 8, "va": "center", "arrowprops": line}
        for axis, x in zip(axes, (model.megabytes, speed), strict=True):
            if x is not None:
                axis.plot(x, height, marker, color=color)
                axis.annotate(model.label, (x, height), (16, place), **beside)
    for axis in axes:  # room for labels
        left, right = axis.get_xlim()
        axis.set_xlim(left, right * (right / left) ** 0.3)
    for index, family in enumerate(families):
        axes[1].plot([], [], "o", color=f"C{index}", label=family)
    axes[1].legend(frameon=False, fontsize=8)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")


def _dress(axes: Any, lowest: float, highest: float) -> None:
    """Logarithmic axes with plain numbers."""
    from matplotlib.ticker import LogLocator, ScalarFormatter

    for axis, title in zip(axes, ("megabytes on disk", "tokens per second, generation"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=title, ylim=(lowest, highest))
        axis.grid(visible=True, which="both", alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            scale.set_major_formatter(ScalarFormatter())
            scale.set_minor_formatter("")
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("perplexity (lower is better)")
    axes[1].set_title("round: the native engine, square: llama.cpp", fontsize=9)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=str, metavar="[FAMILY/]LABEL=PATH")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=1024, help="tokens of a window")
    parser.add_argument("--max-tokens", type=int, default=16384, help="that are scored")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=[], help="with commas")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--limit", type=int, default=200, help="items of a task")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--generate-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    try:
        formats = [parse_model(text) for text in args.models]
        if len({model.label for model in formats}) < len(formats):
            raise EvalRequestError(
                f"two models have one label: {', '.join(model.label for model in formats)}"
            )
        check_reading([model.path for model in formats], [args.text], args.tasks, OUR_TASKS, args.data_dir)
        check_way(args.output)
        args.output.mkdir(parents=True, exist_ok=True)
        tests = [Test("prompt", args.prompt_tokens), Test("generate", args.generate_tokens)]
        with OtherProcesses() as others:
            time_engines(formats, tests, args.repeats, args.threads)
        for model in formats:
            score(model, args)
    except UserError as error:
        raise SystemExit(f"formats: {error}") from error
    models = [asdict(model) | {"path": model.path.name, "megabytes": model.megabytes} for model in formats]
    found = {
        "models": models,
        "threads": args.threads,
        "repeats": args.repeats,
        "other_processes_cores": others.cores,
        **environment("wrinklefree-inference", "ternary-kernels", "xllamacpp", "lm-eval"),
    }
    atomic_write_json(args.output / "formats.json", found)
    draw(formats, args.output / "formats.png")
    columns = (*COLUMNS, *PEER_COLUMNS, *args.tasks)
    print("| model | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for model in formats:
        print(f"| {model.label} | " + " | ".join(row(model)) + " |")


if __name__ == "__main__":
    main()
