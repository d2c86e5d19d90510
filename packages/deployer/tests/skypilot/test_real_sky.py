"""`wf train` and `wf eval --cloud sky:slurm` with the real SkyPilot, on two nodes of Slurm beside another
user's job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import real_sky
import store_servers
from real_cluster import Cluster

from wf_deployer.backends.sky.client import SkyClient
from wf_deployer.backends.sky.infra import Infra

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
TRAINER = Path(__file__).parents[1] / "slurm" / "small_trainer.py"
WF = """
import os, sys
from pathlib import Path
root = Path(os.environ["CHECKOUT"])
os.chdir(root)
from wf_deployer.backends.sky import backend, launcher, planning
backend.workspace_root = launcher.workspace_root = planning.workspace_root = lambda: root
from wf_deployer.commands import train
train.TRAINER = [sys.executable, *os.environ["TRAINER"].split()]
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
            "TRAINER": "small_trainer.py",
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

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.run(sys.executable, *arguments, environment=self.environment)

    def wf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-c", WF, *arguments)

    def submit(self, *arguments: str, upload: str | None = None) -> str:
        where = f"training.checkpoint.upload={upload or self.folder / 'store'}"
        done = self.wf(*TRAIN, "--cpus", "1", where, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split("started ")[1].split()[0]

    def state(self, job_id: str) -> str:
        rows = json.loads(self.wf("runs", "--json", "--timeout", "600").stdout)
        row = next(row for row in rows if row["id"] == job_id)
        return f"{row['state']} {row['problem'] or ''}".strip()

    def queue(self) -> list[str]:
        """Names of Slurm's jobs that are there."""
        return self.cluster.run("squeue", "-h", "-o", "%j").stdout.split()

    def slurm_id(self, job_id: str) -> str:
        """SkyPilot puts the user behind a cluster's name."""
        jobs = self.cluster.run("squeue", "-h", "-o", "%i %j").stdout.splitlines()
        (found,) = [line.split()[0] for line in jobs if line.split()[1].startswith(f"wf-{job_id}")]
        return found

    def wait_for(
        self, condition: Callable[[], bool], what: str, timeout_s: float = 900, every_s: float = 2
    ) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, what
            time.sleep(every_s)


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


MODEL = """
import json, sys
from pathlib import Path

folder, helpers = sys.argv[1:]
sys.path.append(helpers)
import tiny_models

tiny_models.save_small_llama(f"{folder}/dense")
lines = [json.dumps({"text": f"Document {i}: {i} squared is {i * i}. " * (1 + i % 3)}) for i in range(200)]
Path(folder, "text.jsonl").write_text("\\n".join(lines) + "\\n")
"""


def test_an_evaluation_of_a_model_that_is_sent_leaves_its_table(
    login: Login, workspace_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(login.environment, "OMP_NUM_THREADS", "1")
    folder = login.folder / "evaluated"
    folder.mkdir()
    done = login.python("-c", MODEL, str(folder), str(workspace_root / "tests" / "helpers"))
    assert done.returncode == 0, done.stderr
    given = ["--model-path", f"{folder}/dense", "--text", f"{folder}/text.jsonl", "--context", "64"]
    where = ["--cloud", "sky:slurm/loop", "--cpus", "1", "--output", f"{login.folder}/store"]
    done = login.wf("eval", *given, "--threads", "1", "--max-tokens", "200", *where)
    assert done.returncode == 0, done.stdout + done.stderr
    job_id = done.stdout.split("started ")[1].split()[0]
    login.wait_for(lambda: login.state(job_id) == "finished", login.state(job_id))
    shown = login.wf("eval", "--results", job_id)
    assert shown.returncode == 0, shown.stderr
    report = json.loads((login.folder / "runs" / job_id / "results" / "report.json").read_text())
    assert "/wf-inputs/0/dense" in report["model"]["path"]
    assert f"{report['perplexity'][0]['perplexity']:,.3f}" in shown.stdout
    login.wait_for(lambda: login.queue() == ["wf-train"], str(login.queue()))


BUCKET = """
import sys

sys.path.append(sys.argv[1])
import store_servers

with store_servers.s3_server() as url:
    print(url, flush=True)
    sys.stdin.read()
"""
UPLOADS = "s3://bucket/runs"


@pytest.fixture
def trainer(login: Login, workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The real trainer and a bucket on loopback, which both nodes see. Yields: overrides of a tiny run."""
    pytest.importorskip("moto")
    helpers, folder = str(workspace_root / "tests" / "helpers"), login.folder
    with login.cluster.start(sys.executable, "-c", BUCKET, helpers) as server:
        assert server.stdout is not None
        access = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
        }
        settings = folder / "checkout" / ".wf.toml"
        settings.write_text(f"[sky]\nsecrets = {json.dumps(list(access))}\n")
        for name, value in ({"TRAINER": "-m wrinklefree.train", "OMP_NUM_THREADS": "1"} | access).items():
            monkeypatch.setitem(login.environment, name, value)
        done = login.python("-c", MODEL, str(folder), helpers)
        assert done.returncode == 0, done.stderr
        common = [
            "model.source=path",
            f"model.name={folder}/dense",
            f"data.sources=[{{kind: path, name: text, location: {folder}/text.jsonl}}]",
            *("num_threads=1", "logging.progress_bar=none"),
        ]
        fit = ("fit.tokens=512", "fit.sequence_length_tokens=32", "fit.evaluation_tokens=64")
        stage1 = [*common, *(f"training.{name}" for name in fit), f"output_dir={folder}/outputs"]
        done = login.python("-m", "wrinklefree.train", "-s", "1", *stage1)
        assert done.returncode == 0, done.stderr
        yield [
            *common,
            *("distributed.accelerator=cpu", "training.sequence_length_tokens=32", "training.batch_size=2"),
            *("training.schedule.warmup=2", "training.max_steps=800", "training.checkpoint.every_steps=20"),
            f"training.start_from={folder}/outputs/default/stage1/final",
        ]
        settings.unlink()


LIST = """
import re, sys, urllib.request

request = urllib.request.Request(f"{sys.argv[1]}/bucket?list-type=2&prefix=runs/default/")
request.add_header("Authorization", sys.argv[2])
with urllib.request.urlopen(request, timeout=10) as answer:
    print("\\n".join(re.findall("<Key>runs/([^<]*)/COMPLETE</Key>", answer.read().decode())))
"""


def uploads(login: Login) -> list[str]:
    """Names of what is complete in the bucket; quick, since the run goes on meanwhile."""
    done = login.python(
        "-S", "-c", LIST, login.environment["AWS_ENDPOINT_URL"], store_servers.S3_AUTHORIZATION
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def summary(text: str) -> dict[str, Any]:
    (line,) = [line for line in text.splitlines() if line.startswith("summary: ")]
    found: dict[str, Any] = json.loads(line.removeprefix("summary: "))
    return found


def test_a_run_whose_machines_are_taken_goes_on_from_the_bucket_to_the_bit(
    login: Login, trainer: list[str]
) -> None:
    first = login.submit(*trainer, upload=UPLOADS)
    slurm_id = login.slurm_id(first)
    login.wait_for(lambda: bool(uploads(login)), "nothing is uploaded", 1800, every_s=0)
    assert login.cluster.run("scancel", slurm_id).returncode == 0
    login.wait_for(lambda: login.state(first).split()[0] in ("lost", "failed", "cancelled"), "it goes on")
    assert not [name for name in uploads(login) if name.endswith("/final")], "it had ended before"

    second = login.submit(*trainer, upload=UPLOADS)
    login.wait_for(lambda: login.state(second) == "finished", "it does not end", 2700)
    log = login.wf("logs", second).stdout
    assert "resuming from" in log, log
    (final,) = [name for name in uploads(login) if name.endswith("/final")]
    resumed = login.folder / "resumed"
    done = login.python("-m", "wf_stores.main", "get", f"{UPLOADS}/{final}", str(resumed))
    assert done.returncode == 0, done.stderr

    whole = login.python("-m", "wrinklefree.train", "-s", "2", *trainer, f"output_dir={login.folder}/whole")
    assert whole.returncode == 0, whole.stderr
    undisturbed = login.folder / "whole" / "default" / "stage2" / "final"
    name = "model.safetensors"
    assert (resumed / name).read_bytes() == (undisturbed / name).read_bytes()
    figures = ("first_loss", "last_loss", "tokens", "steps")
    ended, expected = summary(log), summary(whole.stdout)
    assert [ended[figure] for figure in figures] == [expected[figure] for figure in figures]
    login.wait_for(lambda: login.queue() == ["wf-train"], str(login.queue()))
