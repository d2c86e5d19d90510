"""`wf` on the table of fake_sky.py, in a checkout of its own, and what lies in the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_sky import BOB, NOW, FakeSky, InProcess
from small_trainer import described
from typer.testing import CliRunner

from wf_deployer.backends.sky import backend, client, end, launcher
from wf_deployer.main import app

TRAINER = Path(__file__).parents[1] / "slurm" / "small_trainer.py"
UPLOAD = "training.checkpoint.upload=gs://bucket/runs"


class Sky:
    """The table, `wf` on it, and what lies in the store."""

    def __init__(self, folder: Path, runner: CliRunner, fake: FakeSky) -> None:
        self.folder, self.runner, self.fake = folder, runner, fake
        self.runs, self.checkout = folder / "runs", folder / "checkout"
        self.stored: dict[str, dict[str, Any]] = {}
        self.store_reason, self.store_is_missing = "there is no complete upload", True
        fake.add_cluster("wf-train", BOB)
        fake.add_to_queue("wf-train", "wf-train", BOB)
        fake.add_service("wf-serve", BOB)
        for job_id in (1, 2):
            fake.add_job(job_id, BOB)

    def wf(self, *arguments: str) -> Result:
        return self.runner.invoke(app, list(arguments))

    def train(self, *arguments: str, cloud: str = "nebius") -> Result:
        return self.wf("train", "-s", "2", "--cloud", cloud, "steps=3", UPLOAD, *arguments)

    def submitted(self, *arguments: str, cloud: str = "nebius") -> str:
        done = self.train(*arguments, cloud=cloud)
        assert done.exit_code == 0, done.output
        return next(line for line in done.stdout.splitlines() if line.startswith("started ")).split()[1]

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.wf("runs", "--json").stdout)
        return rows

    def record(self, job_id: str, name: str = "submitted.json") -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.runs / job_id / name).read_text())
        return values

    def leaves(self, job_id: str, returncode: int) -> None:
        """The job's script has put how it ended beside the uploads."""
        ended = {"returncode": returncode, "cancelled": False, "ended_s": NOW + 5}
        self.stored[f"gs://bucket/runs/wf-jobs/{job_id}"] = ended

    def get(self, url: str, there: Path, timeout_s: float) -> end.NoUpload | None:
        if url not in self.stored:
            return end.NoUpload(self.store_is_missing, self.store_reason)
        there.mkdir()
        (there / "exit.json").write_text(json.dumps(self.stored[url]))
        (there / "log.txt").write_text("from the store\n")
        return None


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> Sky:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    subprocess.run(["git", "init", "-q", checkout], check=True)
    (checkout / "code.py").write_text("print(1)\n")
    (checkout / ".env").write_text("TOKEN=hunter2\n")
    for name in ("backend", "planning", "service", "launcher"):
        monkeypatch.setattr(f"wf_deployer.backends.sky.{name}.workspace_root", lambda: checkout)
    fake = FakeSky()
    monkeypatch.setattr(client, "IsolatedProgram", lambda requirement, path: InProcess(fake, path))
    monkeypatch.setenv("WF_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr("wf_deployer.commands.train.TRAINER", [sys.executable, str(TRAINER)])
    monkeypatch.setattr("wf_deployer.commands.train.describe", described)
    monkeypatch.setattr(backend, "GRACE_S", 0.0)
    monkeypatch.setattr(launcher, "_POLL_S", 0.01)
    monkeypatch.chdir(checkout)
    if (path := os.environ.get("PYTHONPATH")) is not None:  # program.py takes it away, from its own process
        monkeypatch.setenv("PYTHONPATH", path)
    sky = Sky(tmp_path, runner, fake)
    monkeypatch.setattr(end, "get_upload", sky.get)
    monkeypatch.setattr("wf_deployer.backends.stored.get_upload", sky.get)
    return sky
