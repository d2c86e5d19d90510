"""Runs a plan: the engines' processes take turns, test by test and repeat by repeat."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import IO, Any, Self

from wrinklefree_inference.bench.plan import BenchOptions, EngineResult, Test
from wrinklefree_inference.errors import EngineError

_WARM_UP_TOKENS = {"prompt": 32, "generate": 4}
_WARM_UP_DEPTH = 64


class EngineProcess:
    """The process of one engine; leaving the `with` block ends it.

    Raises:
        EngineError: from every method: the engine refused, or its process ended.
    """

    def __init__(self, engine: str, plan: BenchOptions) -> None:
        self.engine = engine
        adapter = "" if plan.adapter is None else str(plan.adapter)
        numbers = (plan.threads, plan.context_tokens, plan.num_sequences)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"{__package__}.worker",
                engine,
                str(plan.model),
                adapter,
                plan.cache_type,
                *map(str, numbers),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """The next line of the process."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"the process of {self.engine} ended: {self._last_words()}")
        values: dict[str, Any] = json.loads(line)
        if "error" in values:
            raise EngineError(values["error"])
        return values

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EngineError(f"the process of {self.engine} ended: {self._last_words()}") from error
        return self.answer()

    def seconds(self, test: Test, clock: str = "wall") -> float:
        """Of one run; `clock`: "wall" or "processor", which counts all threads."""
        return float(self.ask(asdict(test) | {"clock": clock})["seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"code {code}; {lines[-1] if lines else 'it said nothing'}"


def run(plan: BenchOptions, engines: Sequence[str], on_progress: Callable[[str], None]) -> list[EngineResult]:
    """Measure each engine; what an engine refuses becomes its result's `error`."""
    results = [EngineResult(engine) for engine in engines]
    with ExitStack() as stack:
        workers: list[tuple[EngineProcess, EngineResult]] = []
        for result in results:
            on_progress(f"{result.engine}: loading {plan.model.name}")
            worker = stack.enter_context(EngineProcess(result.engine, plan))
            try:
                _load(worker, plan, result)
            except EngineError as error:
                result.error = str(error)
            else:
                workers.append((worker, result))
        for repeat in range(plan.repeats):
            for test in plan.tests:
                for worker, result in workers if repeat % 2 == 0 else workers[::-1]:
                    on_progress(f"{test.name} {repeat + 1}/{plan.repeats}: {result.engine}")
                    result.runs_s.setdefault(test, []).append(worker.seconds(test))
        for worker, result in workers:
            result.memory_bytes = worker.ask({"memory": True})
    return results


def _load(worker: EngineProcess, plan: BenchOptions, result: EngineResult) -> None:
    loaded = worker.answer()
    result.load_s, result.facts = loaded["load_s"], loaded["facts"]
    for test in plan.tests:
        tokens, depth = min(test.tokens, _WARM_UP_TOKENS[test.kind]), min(test.depth, _WARM_UP_DEPTH)
        worker.seconds(replace(test, tokens=tokens, depth=depth))
