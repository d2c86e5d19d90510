"""The table for people and the JSON for the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wf_formats.environment import cpu_name, environment
from wrinklefree_inference.bench.plan import BenchOptions, EngineResult, Test

REPORT_KEYS = ("model", "engines", "ratios")
"""Of a file that an earlier run wrote."""
_PACKAGES = ("wrinklefree-inference", "ternary-kernels", "xllamacpp", "numpy")
_DISTURBING_CORES = 0.1
_TITLES = {"native": "native", "llamacpp": "llama.cpp"}


def table(plan: BenchOptions, results: Sequence[EngineResult], other_cores: float = 0.0) -> Iterator[str]:
    """Lines: model and machine, one line per test with a ratio for two engines, memory, refusals."""
    size = _megabytes(model_bytes(plan.model))
    yield f"{plan.model.name}: {size}; {plan.threads} threads of {cpu_name()}"
    for result in results:
        if "kernels" in result.facts:
            yield f"kernels: {result.facts['kernels'].get('isa', '?')}"
    measured = [result for result in results if result.error is None]
    if measured:
        heads = [f"{_TITLES[result.engine]} tokens/s" for result in measured]
        yield _row("test", heads + ["ratio"] * (len(measured) == 2))
        for test in plan.tests:
            yield _row(test.name, _speeds(test, measured))
        yield _row("memory (RSS)", [_memory(result, plan.model) for result in measured])
        yield _row("loading", [f"{result.load_s:.1f} s" for result in measured])
    for result in results:
        if result.error is not None:
            yield f"{_TITLES[result.engine]} was not measured: {result.error}"
    if other_cores > _DISTURBING_CORES:
        yield f"other processes kept {other_cores:.1f} cores busy meanwhile: repeat this on a quiet machine"


def _speeds(test: Test, results: Sequence[EngineResult]) -> list[str]:
    cells = []
    for result in results:
        speeds = [test.total_tokens / run_s for run_s in result.runs_s[test]]
        spread = (max(speeds) - min(speeds)) / 2
        cells.append(f"{result.tokens_per_s(test):.1f} ± {spread:.1f}")
    found = ratio(test, results)
    return cells + ([f"{found:.2f}x"] if found is not None else [])


def ratio(test: Test, results: Sequence[EngineResult]) -> float | None:
    """Speed of the first engine over the second's; None without two."""
    speeds = [speed for result in results if (speed := result.tokens_per_s(test))]
    return speeds[0] / speeds[1] if len(speeds) == 2 else None


def as_json(plan: BenchOptions, results: Sequence[EngineResult], other_cores: float) -> dict[str, Any]:
    """Everything that was measured, with what it was measured on."""
    engines = {}
    for result in results:
        tests = {
            test.name: {
                "tokens_per_s": result.tokens_per_s(test),
                "runs_tokens_per_s": [test.total_tokens / run_s for run_s in runs],
            }
            for test, runs in result.runs_s.items()
        }
        engines[result.engine] = {
            "error": result.error,
            "load_s": result.load_s,
            "tests": tests,
            "memory_bytes": result.memory_bytes,
            **result.facts,
        }
    return {
        "model": plan.model.name,
        "model_bytes": model_bytes(plan.model),
        "threads": plan.threads,
        "repeats": plan.repeats,
        "engines": engines,
        "ratios": {test.name: ratio(test, results) for test in plan.tests},
        "other_processes_cores": other_cores,
        **environment(*_PACKAGES),
    }


def model_bytes(model: Path) -> int:
    """Size of a file, or of the weights in a folder."""
    files = [model] if model.is_file() else model.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _memory(result: EngineResult, model: Path) -> str:
    rss = result.memory_bytes["rss"]
    return f"{_megabytes(rss)} = {rss / model_bytes(model):.2f} x file"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _row(title: str, cells: Sequence[str]) -> str:
    return (
        f"{title:<18}" + "".join(f"{cell:>26}" for cell in cells[:2]) + "".join(f"{c:>9}" for c in cells[2:])
    )
