"""The table for people and the JSON for the record."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wrinklefree_inference.bench.plan import EngineResult, Plan, Test

_PACKAGES = ("wrinklefree-inference", "ternary-kernels", "xllamacpp", "numpy")
_TITLES = {"native": "native", "llamacpp": "llama.cpp"}


def table(plan: Plan, results: Sequence[EngineResult]) -> Iterator[str]:
    """Lines: model and machine, one line per test with a ratio for two engines, memory, refusals."""
    yield f"{plan.model.name}: {_megabytes(model_bytes(plan.model))}; {plan.threads} threads of {cpu_name()}"
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


def as_json(plan: Plan, results: Sequence[EngineResult]) -> dict[str, Any]:
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
        "hardware": hardware(),
        "commit": commit(),
        "versions": versions(),
    }


def model_bytes(model: Path) -> int:
    """Size of a file, or of the weights in a folder."""
    files = [model] if model.is_file() else model.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def hardware() -> dict[str, Any]:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": pages * page_bytes,
        "load_average": os.getloadavg()[0],
    }


def commit() -> str | None:
    """Of the checkout that this file is part of; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _memory(result: EngineResult, model: Path) -> str:
    rss = result.memory_bytes["rss"]
    return f"{_megabytes(rss)} = {rss / model_bytes(model):.2f} x file"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _row(title: str, cells: Sequence[str]) -> str:
    return (
        f"{title:<14}" + "".join(f"{cell:>26}" for cell in cells[:2]) + "".join(f"{c:>9}" for c in cells[2:])
    )
