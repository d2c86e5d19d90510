"""`wf train --cloud sky:slurm` with the real SkyPilot, on two nodes of Slurm beside another user's job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import real_sky
from real_cluster import Cluster

from wf_deployer.backends.sky.client import SkyClient
from wf_deployer.backends.sky.infra import Infra

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TRAINER = Path(__file__).parents[1] / "slurm" / "small_trainer.py"
WF = """
import os, sys
from pathlib import Path
root = Path(os.environ["CHECKOUT"])
os.chdir(root)
from wf_deployer.backends.sky import backend, planning
backend.workspace_root = planning.workspace_root = lambda: root
from wf_deployer.commands import train
train.TRAINER = [sys.executable, "small_trainer.py"]
from wf_deployer.main import app
app()
"""
PROJECT = """\
[project]
name = "tiny"
version = "0"
requires-python = ">=3.11"

[tool.uv]
package = false
"""
TRAIN = ("train", "-s", "2", "--cloud", "sky:slurm/loop")


class Login:
    """`wf` on the login node, and a job of nobody's that has to live."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        checkout = folder / "checkout"
        subprocess.run(["git", "init", "-q", checkout], check=True)
        (checkout / "pyproject.toml").write_text(PROJECT)
        (checkout / ".env").write_text("TOKEN=hunter2\n")
        shutil.copy(TRAINER, checkout)
        self.environment = {
            "HOME": "/root",
            "PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "CHECKOUT": str(checkout),
            "WF_RUNS_DIR": str(folder / "runs"),
            "COLUMNS": "160",
            "NO_COLOR": "1",
            "UV_OFFLINE": "1",
            "UV_NO_CONFIG": "1",
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "SKYPILOT_API_SERVER_LOCAL_PORT": "46711",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder / "wheels"),
        }
        command = ["sbatch", "--parsable", "--ntasks=1", "--chdir=/tmp", "--output=/dev/null"]
        done = cluster.run(*command, "--job-name=wf-train", "--wrap=sleep 10000", user="nobody")
        assert done.returncode == 0, done.stderr
        self.foreign = done.stdout.strip()
        self.wait_for(lambda: cluster.state(self.foreign) == "RUNNING", "nobody's job does not start")

    def wf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.run(sys.executable, "-c", WF, *arguments, environment=self.environment)

    def submit(self, *arguments: str) -> str:
        done = self.wf(*TRAIN, "--cpus", "1", f"training.checkpoint.upload={self.folder}/store", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split("started ")[1].split()[0]

    def state(self, job_id: str) -> str:
        rows = json.loads(self.wf("runs", "--json").stdout)
        row = next(row for row in rows if row["id"] == job_id)
        return f"{row['state']} {row['problem'] or ''}".strip()

    def queue(self) -> list[str]:
        """Names of Slurm's jobs that are there."""
        return self.cluster.run("squeue", "-h", "-o", "%j").stdout.split()

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 300) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, what
            time.sleep(2)


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    if (missing := real_sky.why_missing()) is not None:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("sky")
    version = SkyClient(Infra("slurm")).check_task("name: x\nrun: echo\n")
    kept = os.environ.get("WF_SKY_WHEELS")
    wheels = Path(kept) if kept else folder / "wheels"
    if not (wheels / "complete").exists():
        real_sky.fetch_wheels(wheels, version)
        (wheels / "complete").touch()
    if kept:
        (folder / "wheels").symlink_to(wheels)
    with real_sky.sky_cluster(folder, wheels) as cluster:
        login = Login(cluster, folder)
        yield login
        assert cluster.state(login.foreign) == "RUNNING", "the job of another user was touched"


def test_two_nodes_train_together_and_give_their_machines_back(login: Login) -> None:
    job_id = login.submit("--num-nodes", "2", "steps=600")
    assert f"wf-{job_id}" in "".join(login.queue())
    log = login.wf("logs", "-f", job_id).stdout
    assert "2 processes, n1 starts at step 0" in log
    assert "2 processes, n2 starts at step 0" in log
    assert "hunter2" not in log
    login.wait_for(lambda: login.state(job_id) == "finished", login.state(job_id))
    assert login.queue() == ["wf-train"]
    kept = login.wf("logs", job_id).stdout
    assert "n1 done at step 600" in kept


def test_cancel_ends_ours_alone(login: Login) -> None:
    job_id = login.submit("steps=100000")
    login.wait_for(lambda: "starts at step" in login.wf("logs", job_id).stdout, "it does not start")
    assert login.state(job_id) == "running"
    path = login.folder / "runs" / job_id / "submitted.json"
    submitted = json.loads(path.read_text())
    path.write_text(json.dumps(submitted | {"id": "another"}))
    refused = login.wf("cancel", job_id)
    assert refused.returncode == 1
    assert "refused" in refused.stderr
    assert len(login.queue()) == 2
    path.write_text(json.dumps(submitted))
    done = login.wf("cancel", job_id)
    assert done.stdout == f"{job_id}: cancelled\n", done.stderr
    login.wait_for(lambda: login.queue() == ["wf-train"], str(login.queue()))
