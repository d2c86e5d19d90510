"""Fetching of a job's results: by two at once, and where a version before has fetched them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wf_deployer.backends.base import JobState, NoUpload
from wf_deployer.backends.fetched import results_of
from wf_deployer.errors import CommandError

ID = "20260101-000000-eval-0000"
LONG_S = 0.3
"""In which the other of two would have started to fetch."""


@pytest.fixture
def folder(runs_dir: Path) -> Path:
    """Of the job's results, which are not there yet."""
    (runs_dir / ID).mkdir(parents=True)
    return runs_dir / ID / "results"


def job(fetch: Callable[[str, Path], NoUpload | None]) -> Any:
    status = SimpleNamespace(state=JobState.finished)
    return SimpleNamespace(id=ID, job_backend=SimpleNamespace(fetch=fetch), status=status)


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


def away(job_id: str, there: Path) -> NoUpload:
    return NoUpload(False, "the store is away")


def gone(job_id: str, there: Path) -> NoUpload:
    return NoUpload(True, "the store has none")


def unanswered(job_id: str, there: Path) -> None:
    raise CommandError("the provider did not answer")


@pytest.mark.parametrize(
    ("fetch", "reason"), [(away, "is away"), (gone, "has left no results"), (unanswered, "did not answer")]
)
def test_results_without_a_record_are_shown_where_they_cannot_be_fetched(
    folder: Path, capsys: pytest.CaptureFixture[str], fetch: Callable[[str, Path], None], reason: str
) -> None:
    put("before", folder)
    assert results_of(job(fetch)) == folder
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: ")
    assert reason in warning
    assert warning.endswith(
        f"shown as it is: {folder} has no results.json beside it, which would say what came"
    )
    assert "damaged" not in warning
    assert [path.name for path in folder.iterdir()] == ["report.json"]
    assert not folder.with_name("results.json").exists()  # nothing vouches for them


def test_results_without_a_record_are_fetched_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put("before", folder)
    assert results_of(job(put)) == folder
    (aside,) = folder.parent.glob("results.replaced-*")
    assert [(path / "report.json").read_text() for path in (aside, folder)] == ["of before", f"of {ID}"]
    assert str(aside) in (told := capsys.readouterr().err)
    assert "damaged" not in told
    assert results_of(job(away)) == folder


def test_damaged_results_are_not_shown(folder: Path) -> None:
    results_of(job(put))
    (folder / "report.json").write_text("changed")
    with pytest.raises(
        CommandError, match=r"the store is away; .*results is damaged \(report\.json was changed\)"
    ):
        results_of(job(away))
