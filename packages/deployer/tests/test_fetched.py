"""Fetching of a job's results: by two at once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wf_deployer.backends.base import NoUpload
from wf_deployer.backends.fetched import results_of

ID = "20260101-000000-eval-0000"
LONG_S = 0.3
"""In which the other of two would have started to fetch."""


@pytest.fixture
def folder(runs_dir: Path) -> Path:
    """Of the job's results, which are not there yet."""
    (runs_dir / ID).mkdir(parents=True)
    return runs_dir / ID / "results"


def job(fetch: Callable[[str, Path], NoUpload | None]) -> Any:
    return SimpleNamespace(id=ID, job_backend=SimpleNamespace(fetch=fetch))


def put(job_id: str, there: Path) -> None:
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    (there / "report.json").write_text(f"of {job_id}")


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_second_of_two_at_once_finds_what_the_first_fetched(folder: Path, is_damaged: bool) -> None:
    if is_damaged:
        results_of(job(put))
        (folder / "report.json").write_text("changed")
    fetches: list[str] = []
    another = threading.Event()

    def fetch(job_id: str, there: Path) -> None:
        fetches.append(job_id)
        if len(fetches) == 2:
            another.set()
        put(job_id, there)
        another.wait(LONG_S)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(results_of, [job(fetch)] * 2))
    assert (found, fetches) == ([folder] * 2, [ID])
    assert (folder / "report.json").read_text() == f"of {ID}"
    assert len(list(folder.parent.glob("results.replaced-*"))) == is_damaged
