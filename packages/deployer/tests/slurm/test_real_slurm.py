"""`wf train` and `wf eval --cloud slurm` on a real Slurm of two nodes, beside a job of another user
(real_cluster.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import real_cluster
from real_cluster import Cluster

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
WF = """
import os, sys
from wf_deployer.backends.slurm import script
script.GRACE_S = int(os.environ.get("GRACE_S", script.GRACE_S))
from wf_deployer.commands import train
train.TRAINER = [sys.executable, os.environ["TRAINER"]]
from wf_deployer.main import app
app()
"""
TRAIN = ("train", "-s", "2", "--cloud", "slurm")
MODEL = """
import sys

folder, helpers = sys.argv[1:]
sys.path.append(helpers)
import tiny_models

tiny_models.save_small_llama(f"{folder}/dense")
"""
TWO_NODES = ("--num-nodes", "2", "--cpus", "1")


class Login:
    """`wf` on the login node, its jobs in a folder, and a job of nobody's that has to live."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.environment = {
            "WF_RUNS_DIR": str(folder / "runs"),
            "TRAINER": str(HERE / "small_trainer.py"),
            "COLUMNS": "160",
            "NO_COLOR": "1",
        }
        (folder / "work").mkdir()
        command = ["sbatch", "--parsable", "--ntasks=1", "--chdir=/tmp", "--output=/dev/null"]
        done = cluster.run(*command, "--job-name=wf-train", "--wrap=sleep 1000", user="nobody")
        assert done.returncode == 0, done.stderr
        self.foreign = done.stdout.strip()
        deadline_s = time.monotonic() + 30
        while cluster.state(self.foreign) != "RUNNING":
            assert time.monotonic() < deadline_s, "the job of another user does not start"
            time.sleep(0.2)

    def wf(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        source = f"import os; os.chdir({str(self.folder / 'work')!r})\n{WF}"
        given = self.environment | dict(environment or {})
        return self.cluster.run(sys.executable, "-c", source, *arguments, environment=given)

    def submit(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        done = self.wf(*TRAIN, *arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[1]

    def slurm_id(self, job_id: str) -> str:
        path = self.folder / "runs" / job_id / "submitted.json"
        return str(json.loads(path.read_text())["id"])

    def state(self, job_id: str) -> str:
        rows = json.loads(self.wf("runs", "--json").stdout)
        return str(next(row["state"] for row in rows if row["id"] == job_id))

    def log(self, job_id: str) -> str:
        return (self.folder / "runs" / job_id / "log.txt").read_text()

    def wait_for(self, job_id: str, condition: Callable[[], bool], timeout_s: float = 120) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, self.log(job_id)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if (missing := real_cluster.why_missing()) is not None:
        pytest.skip(missing)
    with real_cluster.cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def login(real: Cluster, tmp_path: Path) -> Iterator[Login]:
    login = Login(real, tmp_path)
    yield login
    state = real.state(login.foreign)
    real.run("scancel", login.foreign)
    assert state == "RUNNING", "the job of another user was touched"


def test_two_nodes_train_together(login: Login) -> None:
    done = login.wf(*TRAIN, *TWO_NODES, "--dry-run", "steps=5")
    assert done.returncode == 0, done.stderr
    assert not (login.folder / "runs").exists()
    job_id = login.submit(*TWO_NODES, "steps=5")
    done = login.wf("logs", "-f", job_id)
    assert "2 processes, n1 starts at step 0" in done.stdout
    assert "2 processes, n2 starts at step 0" in done.stdout
    assert "n2 done at step 5" in done.stdout
    assert f"{job_id}: finished, exit code 0" in done.stderr


def test_cancel_saves_and_stops_ours_alone(login: Login) -> None:
    job_id = login.submit(*TWO_NODES, "steps=10000", environment={"SAVE_S": "8"})  # longer than KillWait
    login.wait_for(job_id, lambda: "n1 starts" in login.log(job_id))
    assert login.state(job_id) == "running"
    done = login.wf("cancel", job_id)
    assert done.stdout == f"{job_id}: cancelled\n", done.stderr
    assert "n1 saved at step" in login.log(job_id)
    assert login.state(job_id) == "cancelled"
    again = login.wf("cancel", job_id)
    assert again.returncode == 1
    assert "is not running: it is cancelled" in again.stderr


def test_cancel_of_a_job_that_waits(login: Login) -> None:
    first = login.submit(*TWO_NODES, "--cpus", "2", "steps=10000")  # nobody's job has one of the four cores
    assert login.state(first) == "pending"
    assert login.wf("cancel", first).returncode == 0
    assert login.state(first) == "cancelled"


def test_cancel_refuses_another_users_job(login: Login) -> None:
    """A record that was made to fit: as root, Slurm itself would not refuse."""
    job_id = login.submit("steps=1")
    path = login.folder / "runs" / job_id / "submitted.json"
    login.wait_for(job_id, (path.parent / "exit.json").exists)
    (path.parent / "exit.json").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": login.foreign}))
    done = login.wf("cancel", job_id, "--kill", "--timeout", "0")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "its user is 'nobody', not 'root'" in done.stderr
    assert "it carries no token" in done.stderr


def test_what_slurm_cannot_give_is_refused(login: Login) -> None:
    done = login.wf(*TRAIN, "--gpu", "H100:1", "steps=1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing was submitted: sbatch: ")
    assert "Invalid generic resource" in done.stderr
    assert not list((login.folder / "runs").iterdir())


def test_a_requeued_job_goes_on_from_its_checkpoint(login: Login) -> None:
    """What Slurm does before the time limit: USR1 to the batch script."""
    job_id = login.submit(*TWO_NODES, "steps=40", environment={"GRACE_S": "2"})
    login.wait_for(job_id, lambda: "n1 starts" in login.log(job_id))
    time.sleep(1)
    login.cluster.run("scancel", "--batch", "--signal=USR1", login.slurm_id(job_id))
    login.wait_for(job_id, lambda: ", start 2" in login.log(job_id))
    login.wait_for(job_id, (login.folder / "runs" / job_id / "exit.json").exists)
    (saved,) = [line for line in login.log(job_id).splitlines() if line.startswith("n1 saved at step ")]
    step = saved.rpartition(" ")[2]
    assert f"2 processes, n1 starts at step {step}" in login.log(job_id)
    assert "n1 done at step 40" in login.log(job_id)
    assert login.state(job_id) == "finished"


def test_the_same_command_resumes_a_job_that_was_scancelled(login: Login) -> None:
    first = login.submit(*TWO_NODES, "steps=60")
    login.wait_for(first, lambda: "n1 starts" in login.log(first))
    time.sleep(1)
    login.cluster.run("scancel", login.slurm_id(first))
    login.wait_for(first, lambda: login.state(first) == "cancelled")
    second = login.submit(*TWO_NODES, "steps=60")
    login.wait_for(second, (login.folder / "runs" / second / "exit.json").exists)
    (saved,) = [line for line in login.log(first).splitlines() if line.startswith("n1 saved at step ")]
    assert f"n1 starts at step {saved.rpartition(' ')[2]}" in login.log(second)
    assert login.state(second) == "finished"


@pytest.fixture
def evaluation(login: Login, workspace_root: Path) -> tuple[str, ...]:
    """A command that evaluates a tiny model on a short text."""
    helpers, work = str(workspace_root / "tests" / "helpers"), login.folder / "work"
    done = login.cluster.run(sys.executable, "-c", MODEL, str(work), helpers)
    assert done.returncode == 0, done.stderr
    (work / "short.txt").write_text("The cat sat on the mat, and the dog lay by the fire. " * 8)
    (work / "long.txt").write_text("The cat sat on the mat, and the dog lay by the fire. " * 100_000)
    return ("eval", "--model-path", "dense", "--text", "short.txt", "--context", "64", "--threads", "1")


def test_an_evaluation_leaves_the_table_of_one_here(login: Login, evaluation: tuple[str, ...]) -> None:
    done = login.wf(*evaluation, "--cloud", "slurm", "--cpus", "1")
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.split()[1]
    followed = login.wf("logs", "-f", job_id)
    assert f"{job_id}: finished, exit code 0" in followed.stderr, followed.stdout
    shown = login.wf("eval", "--results", job_id)
    assert shown.returncode == 0, shown.stderr
    assert login.wf(*evaluation, "--output", "here.json").returncode == 0
    here = json.loads((login.folder / "work" / "here.json").read_text())
    there = json.loads((login.folder / "runs" / job_id / "results" / "report.json").read_text())
    (expected,), (found,) = here["perplexity"], there["perplexity"]
    assert found["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-4)
    assert f"{found['perplexity']:,.3f}" in shown.stdout
    assert there["model"]["sha256"] == here["model"]["sha256"]


def test_an_evaluation_that_is_cancelled_leaves_none(login: Login, evaluation: tuple[str, ...]) -> None:
    done = login.wf(*evaluation, "--text", "long.txt", "--cloud", "slurm", "--cpus", "1")
    job_id = done.stdout.split()[1]
    login.wait_for(job_id, lambda: "Loading weights" in login.log(job_id))
    assert login.wf("cancel", job_id).stdout == f"{job_id}: cancelled\n"
    assert login.state(job_id) == "cancelled"
    told = login.wf("eval", "--results", job_id)
    assert (told.returncode, told.stdout) == (1, "")
    assert f"{job_id} is cancelled and has left no results" in told.stderr
    assert not (login.folder / "runs" / job_id / "output").exists()
