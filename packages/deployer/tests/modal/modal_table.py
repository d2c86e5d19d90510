"""`wf` on the table of fake_client.py, with a checkout of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_client import Modal
from typer.testing import CliRunner

from wf_deployer.main import app


class Wf:
    """The table, and `wf` on it."""

    def __init__(self, folder: Path, runner: CliRunner) -> None:
        self.modal = Modal()
        self.runner = runner
        self.runs = folder / "runs"

    def __call__(self, *arguments: str) -> Result:
        return self.runner.invoke(app, list(arguments))

    def train(self, *arguments: str) -> Result:
        return self("train", "-s", "2", "--cloud", "modal", "steps=3", *arguments)

    def submitted(self, *arguments: str) -> str:
        done = self.train(*arguments)
        assert done.exit_code == 0, done.output
        return done.output.split()[1]

    @property
    def call(self) -> Any:
        (call,) = [call for call in self.modal.calls.values() if call.user != "bob"]
        return call

    @property
    def app(self) -> Any:
        (found,) = [found for found in self.modal.apps.values() if found.user != "bob"]
        return found

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(self("runs", "--json").stdout)[0]
        return row

    def values(self, job_id: str) -> dict[str, Any]:
        """JOB of the app that was written."""
        namespace: dict[str, Any] = {"Any": Any}
        source = (self.runs / job_id / "app.py").read_text()
        start = source.index("JOB: dict")
        exec(source[start : source.index("\n\n", start)], namespace)
        values: dict[str, Any] = namespace["JOB"]
        return values


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = tmp_path_factory.mktemp("checkout")
    for name, text in {
        "pyproject.toml": "[tool.uv.workspace]",
        "uv.lock": "",
        ".env": "secret",
        "outputs/big": "x",
        "src/a.py": "1",
        ".gitignore": "ignored\n",
        "ignored": "",
    }.items():
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(text)
    (checkout / "link").symlink_to("src/a.py")
    (checkout / "outward").symlink_to("/etc/hostname")
    subprocess.run(["git", "init", "-q", checkout], check=True)
    return checkout


def described(arguments: list[str], elsewhere: bool) -> dict[str, str]:
    assert elsewhere  # what a stage starts from lies in the volume
    return {"stage": "stage2", "experiment": "small", "run_folder": "/here/outputs/small/stage2"}


@pytest.fixture
def wf(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> Wf:
    found = Wf(tmp_path, runner)
    for name in ("backend", "service"):
        monkeypatch.setattr(f"wf_deployer.backends.modal.{name}.workspace_root", lambda: checkout)
        monkeypatch.setattr(f"wf_deployer.backends.modal.{name}._POLL_S", 0.01)
    monkeypatch.setattr("wf_deployer.backends.modal.client._PROGRAM", found.modal.program())
    monkeypatch.setattr("wf_deployer.commands.train.describe", described)
    monkeypatch.setenv("WF_RUNS_DIR", str(found.runs))
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-me")
    for name in [name for name in os.environ if name.startswith("WF_MODAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return found
