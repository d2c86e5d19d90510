"""Bounded fuzzing of everything that reads what others wrote: no crash, hang, growth or traceback.

    uv run pytest tests/fuzz -m slow                              250 cases of each kind and 1,000 requests
    WRINKLEFREE_FUZZ_CASES=5000 WRINKLEFREE_FUZZ_SEED=7 uv run pytest tests/fuzz -m slow -s

A finding names kind, seed and number, which make the same bytes again.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_limits import CASES, ENVIRONMENT, GROWTH_BYTES, HANG_SECONDS, HERE, SEED, START_SECONDS

KINDS = (
    "text",
    "json lines",
    "safetensors",
    "model folder",
    "gguf",
    "gguf tokenizer",
    "tokenizer.json",
    "chat template",
    "manifest",
)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_read_or_refused(kind: str, samples: Path, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    findings = []
    first = 0
    while first < CASES:
        for case in _cases(kind, samples, first, tmp_path / "case"):
            first = case["number"] + 1
            counts[case["outcome"]] += 1
            if case["outcome"] not in ("read", "refused") or case["grown_bytes"] > GROWTH_BYTES:
                findings.append(case)
    print(f"{kind}: {dict(counts)}")  # noqa: T201  # the counts are the result
    assert not findings, f"seed {SEED}: {json.dumps(findings[:5], indent=2)}"
    assert counts["refused"] > 0


def _cases(kind: str, samples: Path, first: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Outcomes from one worker; its last one is a hang or a crash where it did not get to the end."""
    command = [sys.executable, str(HERE / "worker.py"), str(samples), kind, str(SEED), str(first)]
    with subprocess.Popen(
        [*command, str(CASES - first), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as worker:
        begun, limit = first, START_SECONDS
        while (line := _line(worker, limit)) is not None:
            case = json.loads(line)
            begun, limit = case["number"], START_SECONDS if case["outcome"] != "begun" else HANG_SECONDS
            if case["outcome"] != "begun":
                yield case
        hangs = worker.poll() is None and not _ended(worker)
        worker.kill()
        if hangs or worker.wait() != 0:
            outcome = "hang" if hangs else f"crash ({worker.returncode})"
            stderr = worker.stderr.read()[-3000:]
            yield {"number": begun, "outcome": outcome, "grown_bytes": 0, "stderr": stderr}


def _line(worker: subprocess.Popen[str], seconds: float) -> str | None:
    """The next line; None where it does not come in time or the worker has ended."""
    ready, _, _ = select.select([worker.stdout], [], [], seconds)
    return (worker.stdout.readline() or None) if ready else None


def _ended(worker: subprocess.Popen[str]) -> bool:
    """Whether its output is closed, which means that it ends by itself."""
    deadline = time.monotonic() + 5
    while worker.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return worker.poll() is not None
