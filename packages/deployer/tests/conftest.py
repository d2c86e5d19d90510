"""Fixtures: a runs folder of its own, and background jobs that are gone when the test ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wf_deployer.backends.base import JobSpec, JobState, new_job_id
from wf_deployer.backends.local.cancel import cancel
from wf_deployer.backends.local.launch import launch
from wf_deployer.backends.local.record import LocalJob
from wf_deployer.backends.record import job_ids
from wf_deployer.errors import CommandError


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"})


@pytest.fixture
def describe_evaluation(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Has every `wf eval` described as that of a model and a text, without starting the evaluation."""

    def describe(model: str, text: str) -> None:
        described = {
            "label": Path(model).name,
            "arguments": ["--model-path", model, "--text", text],
            "inputs": {model: [], text: []},
            "on_gpu": True,
        }
        monkeypatch.setattr("wf_deployer.commands.elsewhere._described", lambda *_: described)

    return describe


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "runs"
    monkeypatch.setenv("WF_RUNS_DIR", str(folder))
    yield folder
    for job in map(LocalJob.of, job_ids()):
        with suppress(CommandError):  # a record that the test has damaged
            if job.state is JobState.running:
                cancel(job, timeout_s=0, kill=True)


@pytest.fixture
def start(runs_dir: Path, tmp_path: Path) -> Callable[..., LocalJob]:
    """Starts a background job that runs Python source."""

    def start_source(source: str, run_folder: Path | None = None) -> LocalJob:
        spec = JobSpec(
            id=new_job_id("stage2"),
            kind="train",
            stage="stage2",
            experiment="tiny",
            command=[sys.executable, "-c", source],
            cwd=str(tmp_path),
            run_folder=str(run_folder) if run_folder else None,
        )
        return launch(spec)

    return start_source
