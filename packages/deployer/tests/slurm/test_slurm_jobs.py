"""`wf train --cloud slurm` and what follows, on a table of jobs of two users (fake_slurm.py)."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_slurm
import pytest
from click.testing import Result
from json_table import JsonTable
from small_trainer import described
from typer.testing import CliRunner

from wf_deployer.backends.slurm import client
from wf_deployer.backends.slurm.client import cluster_name
from wf_deployer.main import app

FAKE = Path(__file__).with_name("fake_slurm.py")
TRAINER = Path(__file__).with_name("small_trainer.py")
ME = pwd.getpwuid(os.getuid()).pw_name
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


class Slurm(JsonTable):
    """The table, and `wf` on it."""

    def __init__(self, folder: Path, runner: CliRunner) -> None:
        super().__init__(folder)
        self.runner = runner
        self.runs = folder / "runs"
        self.write({"cluster": "loop", "user": ME, "next": 17, "now": stamp(NOW), "jobs": {}})
        for number, state in enumerate(("RUNNING", "PENDING", "SUSPENDED"), start=1):
            self.add_foreign(str(number), State=state)

    def add_foreign(self, job_id: str, **changes: str) -> None:
        job = {
            "JobID": job_id,
            "UserName": "bob",
            "State": "RUNNING",
            "SubmitTime": stamp(NOW),
            "RestartCnt": "0",
            "Reason": "None",
            "Comment": "(null)",
            "Name": "wf-train a   b",
        }
        table = self.read()
        table["jobs"][job_id] = job | changes
        self.write(table)

    def change(self, job_id: str, **changes: str) -> None:
        table = self.read()
        table["jobs"][job_id] |= changes
        self.write(table)

    def foreign(self) -> dict[str, str]:
        return {key: job["State"] for key, job in self.read()["jobs"].items() if job["UserName"] == "bob"}

    def state(self, job_id: str = "17") -> str:
        state: str = self.read()["jobs"][job_id]["State"]
        return state

    def calls(self, program: str) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == program]

    def wf(self, *arguments: str) -> Result:
        cluster_name.cache_clear()  # each command is a process of its own
        return self.runner.invoke(app, list(arguments))

    def train(self, *arguments: str) -> Result:
        return self.wf("train", "-s", "2", "--cloud", "slurm", "steps=3", *arguments)

    def submitted(self, *arguments: str) -> str:
        """Id of a job that was submitted now, number 17 of Slurm."""
        done = self.train(*arguments)
        assert done.exit_code == 0, done.output
        return done.output.split()[1]

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.wf("runs", "--json").stdout)
        return rows

    def gone_foreign_id(self) -> None:
        """Our job is forgotten, and its id is bob's now."""
        table = self.read()
        del table["jobs"]["17"]
        self.write(table)
        self.add_foreign("17")


class InProcess(SimpleNamespace):
    """`subprocess` for client.py: the fake's programs without a process each."""

    TimeoutExpired = subprocess.TimeoutExpired

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(command[0])
        code, printed, told = fake_slurm.answer(command, options["input"], options["env"])
        return subprocess.CompletedProcess(command, code, printed, told)


@pytest.fixture
def slurm_of_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> Slurm:
    """The fake as programs on PATH, and the trainer that describes its run as one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -SE {programs}/.{name}/{name} "$@"\n')
        (programs / name).chmod(0o755)
        (programs / f".{name}").mkdir()
        (programs / f".{name}" / name).symlink_to(FAKE)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("WF_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr("wf_deployer.commands.train.TRAINER", [sys.executable, str(TRAINER)])
    monkeypatch.setattr("wf_deployer.backends.slurm.backend._POLL_S", 0.01)
    monkeypatch.chdir(tmp_path)
    return Slurm(tmp_path, runner)


@pytest.fixture
def slurm(slurm_of_programs: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """The same in this process."""
    monkeypatch.setattr(client, "subprocess", InProcess())
    monkeypatch.setattr("wf_deployer.commands.train.describe", described)
    return slurm_of_programs


def test_programs_of_slurm_are_started_as_they_are(
    slurm_of_programs: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = slurm_of_programs
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    job_id = slurm.submitted()
    assert slurm.rows()[0]["state"] == "running"
    assert slurm.wf("cancel", job_id).exit_code == 0
    assert "SQUEUE_" not in (slurm.folder / "environments").read_text()
    slurm.set(sbatch_refuses=True)
    done = slurm.train()
    refused = "sbatch: Batch job submission failed: Requested node configuration is not available"
    assert (done.exit_code, done.output) == (2, f"error: nothing was submitted: {refused}\n")


def test_a_job_is_submitted_once_with_what_it_asks_for(slurm: Slurm) -> None:
    job_id = slurm.submitted("--gpu", "H100:8", "--num-nodes", "2", "--cpus", "16")
    (options,) = slurm.calls("sbatch")
    assert {"--gpus-per-node=H100:8", "--nodes=2", "--cpus-per-task=16", "--requeue"} <= set(options)
    assert f"--job-name=wf-{job_id}" in options
    assert f"--output={slurm.runs / job_id / 'log.txt'}" in options
    record = json.loads((slurm.runs / job_id / "job.json").read_text())
    given = {"gpu": "H100:8", "num_nodes": 2, "spot": False, "cpus": 16}
    assert record["resources"] == given | {"time_s": None, "allow_gcp_gpu": False}
    given = {"distributed=ddp", "distributed.devices=8", "distributed.num_nodes=2"}
    assert given | {"distributed.accelerator=gpu"} <= set(record["command"])
    script = (slurm.runs / job_id / "job.sh").read_text()
    assert "--nproc-per-node=8" in script
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in script
    submitted = json.loads((slurm.runs / job_id / "submitted.json").read_text())
    assert submitted == {
        "id": "17",
        "name": f"wf-{job_id}",
        "user": ME,
        "endpoint": "loop",
        "submitted_s": int(NOW.timestamp()),
        "token": record["token"],
        "restarts": 0,
    }
    assert f"--comment=wf:{record['token']}" in options


def test_one_process_is_started_without_torchrun(slurm: Slurm) -> None:
    job_id = slurm.submitted("--gpu", "1")
    assert "torch" not in (slurm.runs / job_id / "job.sh").read_text()
    assert "--gpus-per-node=1" in slurm.calls("sbatch")[0]
    assert not [
        word
        for word in json.loads((slurm.runs / job_id / "job.json").read_text())["command"]
        if "distributed" in word
    ]


def test_fsdp_stays(slurm: Slurm) -> None:
    job_id = slurm.submitted("--num-nodes", "2", "distributed=fsdp")
    command = json.loads((slurm.runs / job_id / "job.json").read_text())["command"]
    assert "distributed=ddp" not in command
    assert "distributed.accelerator=gpu" not in command


def test_a_dry_run_submits_nothing(slurm: Slurm) -> None:
    done = slurm.train("--num-nodes", "2", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "sbatch --job-name=wf-" in done.stdout
    assert "--nnodes=2" in done.stdout
    assert [call[0] for call in slurm.calls("sbatch")] == ["--test-only"] or "--test-only" in slurm.calls(
        "sbatch"
    )[0]
    assert not slurm.runs.exists()
    assert "17" not in slurm.read()["jobs"]
    slurm.set(sbatch_refuses=True)
    done = slurm.train("--dry-run")
    assert done.exit_code == 2
    assert "Slurm would refuse it: sbatch: Batch job submission failed: Requested node" in done.output


REFUSED = {
    ("--num-nodes", "0"): "--num-nodes 0: give 1 to",
    ("--num-nodes", "-3"): "--num-nodes -3: give 1 to",
    ("--cpus", "0"): "--cpus 0: give 1 to",
    ("--gpu", ""): "--gpu '' is no GPU",
    ("--gpu", "H100:0"): "--gpu 'H100:0' is no GPU",
    ("--gpu", "H100:8:1"): "--gpu 'H100:8:1' is no GPU",
    ("--gpu", "a b"): "--gpu 'a b' is no GPU",
    ("--gpu", "H100:1\n--array=1-9"): r"--gpu 'H100:1\\n--array=1-9' is no GPU",
    ("--gpu", "٣"): "--gpu '٣' is no GPU",
    ("--gpu", "H100:8,H200:8"): "--gpu H100:8,H200:8: Slurm takes one kind",
    ("--time", "1w"): "--time '1w' is no time",
    ("--spot",): "--spot: Slurm has none",
    ("force=true",): "force=true with --cloud slurm: a job that begins again would begin from nothing",
    ("--allow-gcp-gpu",): "--allow-gcp-gpu is SkyPilot's, not for --cloud slurm",
    ("--num-nodes", "2", "distributed.devices=4"): "distributed.devices=4: leave it out",
    ("data.token=abcdef",): "data.token=***: Slurm stores a job's command",
    ("--foreground",): "--foreground is this terminal",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_requests_are_one_line_and_submit_nothing(slurm: Slurm, arguments: tuple[str, ...]) -> None:
    done = slurm.train(*arguments)
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"error: {REFUSED[arguments]}")
    assert len(done.output.splitlines()) == 1
    assert "abcdef" not in done.output
    assert not slurm.calls("sbatch")
    assert not slurm.runs.exists()


@pytest.mark.parametrize(
    "arguments", [["--gpu", "H100:8"], ["--num-nodes", "2"], ["--spot"], ["--cpus", "4"]]
)
def test_local_has_no_such_thing(slurm: Slurm, arguments: list[str]) -> None:
    done = slurm.wf("train", "-s", "2", "steps=1", *arguments)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {' '.join(arguments)}: ")
    assert not slurm.runs.exists()


def test_a_time_limit_is_slurms_in_minutes_and_local_has_none(slurm: Slurm) -> None:
    slurm.submitted("--time", "3601s")
    assert "--time=61" in slurm.calls("sbatch")[0]
    done = slurm.wf("train", "-s", "2", "steps=1", "--time", "8h")
    assert done.exit_code == 2
    assert done.output.startswith("error: --time: a local job has no limit")


def test_a_local_dry_run_shows_the_command(slurm: Slurm) -> None:
    done = slurm.wf("train", "-s", "2", "--dry-run", "steps=1", "data.token=abcdef")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"cd {slurm.folder} && ")
    assert "steps=1" in done.stdout
    assert "abcdef" not in done.stdout
    assert not slurm.runs.exists()


def test_without_slurm_nothing_begins(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = slurm.train()
    assert done.exit_code == 2
    assert "there is no sbatch on PATH; run wf on a login node" in done.output
    assert not slurm.runs.exists()


@pytest.mark.parametrize("name", ["SBATCH_ARRAY_INX", "SBATCH_CLUSTERS"])
def test_variables_that_would_submit_something_else(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1-9")
    assert f"error: {name} is set" in slurm.train().output
    assert not slurm.calls("sbatch")


def test_a_refused_submission_leaves_nothing(slurm: Slurm) -> None:
    slurm.set(sbatch_refuses=True)
    done = slurm.train()
    assert done.exit_code == 2
    assert done.output.startswith("error: nothing was submitted: sbatch: Batch job submission failed")
    assert not list(slurm.runs.iterdir())


def test_a_lost_answer_is_found_again(slurm: Slurm) -> None:
    slurm.set(sbatch_loses_answer=True)
    job_id = slurm.submitted()
    assert slurm.wf("cancel", job_id).exit_code == 0
    assert slurm.state() == "FAILED"


def test_a_controller_that_goes_down_after_the_submission_is_told(slurm: Slurm) -> None:
    slurm.set(goes_down=True)
    done = slurm.train()
    assert done.exit_code == 1
    assert "was submitted (job 17), but then squeue: Unable to contact" in done.output
    assert slurm.rows()[0]["state"] == "unknown"
    slurm.set(down=False)
    assert slurm.rows()[0]["state"] == "running"


def test_a_full_disk_submits_nothing_and_leaves_nothing(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("wf_deployer.backends.slurm.backend.atomic_write_text", full)
    done = slurm.train()
    assert done.exit_code == 1
    assert "No space left on device; free some space" in done.output
    assert not slurm.calls("sbatch")
    assert not list(slurm.runs.iterdir())


def test_variables_of_the_user_and_of_a_job_around_us_change_nothing(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SBATCH_ERROR", "SQUEUE_FORMAT", "SCANCEL_NAME", "SLURM_CLUSTERS", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "other")
    job_id = slurm.submitted()
    assert slurm.wf("cancel", job_id).exit_code == 0
    seen = (slurm.folder / "environments").read_text()
    assert not [name for name in ("SBATCH_ERROR", "SQUEUE_", "SCANCEL_", "SLURM_") if name in seen]


def test_a_job_whose_id_could_not_be_written_down_is_found_by_its_token(slurm: Slurm) -> None:
    """`kill -9` between sbatch and the record."""
    job_id = slurm.submitted()
    (slurm.runs / job_id / "submitted.json").unlink()
    slurm.add_foreign("90", Name=f"wf-{job_id}")
    assert slurm.rows()[0]["state"] == "running"
    assert json.loads((slurm.runs / job_id / "submitted.json").read_text())["id"] == "17"
    (slurm.runs / job_id / "submitted.json").unlink()
    assert slurm.wf("cancel", job_id).exit_code == 0
    assert slurm.foreign()["90"] == "RUNNING"


STATES = {
    "PENDING": "pending",
    "CONFIGURING": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "COMPLETED": "finished",
    "CANCELLED": "cancelled",
    "TIMEOUT": "failed",
    "NODE_FAIL": "failed",
    "WHATEVER": "unknown",
}


@pytest.mark.parametrize("state", STATES)
def test_states(slurm: Slurm, state: str) -> None:
    slurm.submitted()
    slurm.change("17", State=state, Reason="Priority")
    (row,) = slurm.rows()
    assert row["state"] == STATES[state]
    if state in ("PENDING", "TIMEOUT"):
        assert row["problem"] == f"Slurm: {state}, Priority"


def test_the_recorded_end_goes_before_what_slurm_says(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    (slurm.runs / job_id / "exit.json").write_text('{"returncode": 3, "cancelled": false, "ended_s": 5}')
    (row,) = slurm.rows()
    assert (row["state"], row["exit_code"]) == ("failed", 3)
    done = slurm.wf("cancel", job_id)
    assert done.exit_code == 1
    assert "is not running: it is failed" in done.output
    assert not slurm.calls("scancel")


def test_a_controller_that_does_not_answer_is_no_damaged_record(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    slurm.set(down=True)
    (row,) = slurm.rows()
    assert row["state"] == "unknown"
    assert "Unable to contact slurm controller" in row["problem"]
    assert slurm.wf("cancel", job_id).exit_code == 1
    slurm.set(down=False)
    assert slurm.rows()[0]["state"] == "running"
    assert slurm.state() == "RUNNING"


def test_slurm_is_asked_once_for_many_jobs_each_of_which_is_decided_alone(slurm: Slurm) -> None:
    ids = [slurm.submitted() for _ in range(4)]
    slurm.change("17", State="PENDING")
    slurm.change("18", UserName="bob")
    for job_id, other in ((ids[2], "all"), (ids[3], None)):
        path = slurm.runs / job_id / "submitted.json"
        if other is None:
            path.unlink()  # found by its token, which is a question of its own
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"id": other}))
    before, num_asked = slurm.foreign(), len(slurm.calls("squeue"))
    rows = {row["id"]: row["state"] for row in slurm.rows()}
    assert rows == dict(zip(ids, ("pending", "lost", "lost", "running"), strict=True))
    asked = slurm.calls("squeue")[num_asked:]
    assert [call[2].partition("=")[0] for call in asked] == ["--name", "--jobs"]
    assert set(asked[1][2].removeprefix("--jobs=").split(",")) == {"17", "18", "20"}
    assert slurm.foreign() == before
    slurm.set(down=True)
    done = slurm.wf("runs")
    assert done.stdout.count("unknown") == 4
    assert len(done.stderr.splitlines()) == 1
    assert f"{max(ids)} and 3 more: squeue: Unable to contact slurm controller" in done.stderr


def test_logs_are_followed_until_the_end(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    (slurm.runs / job_id / "log.txt").write_text("one\ntwo\n")
    assert slurm.wf("logs", "-n", "1", job_id).stdout == "two\n"
    slurm.change("17", State="COMPLETED")
    done = slurm.wf("logs", "-f", job_id)
    assert done.stdout == "one\ntwo\n"
    assert "finished" in done.stderr


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
@pytest.mark.parametrize("kill", [False, True])
def test_every_command_leaves_jobs_of_others_alone(slurm: Slurm, state: str, kill: bool) -> None:
    before = slurm.foreign()
    slurm.set(first_state=state, deaf=kill)
    job_id = slurm.submitted()
    assert slurm.wf("runs").exit_code == 0
    assert slurm.wf("logs", job_id).exit_code == 0
    options = ["--kill", "--timeout", "0.2"] if kill else []
    done = slurm.wf("cancel", job_id, *options)
    assert done.exit_code == 0, done.output
    assert f"{job_id}: cancelled" in done.stdout
    assert slurm.wf("cancel", job_id).exit_code == 1
    assert slurm.foreign() == before
    allowed = {"--batch", "--signal=USR1", "--state=PENDING", "17"}
    assert slurm.calls("scancel")
    for call in slurm.calls("scancel"):
        assert set(call) <= allowed
        assert call[-1] == "17"


def test_a_deaf_job_goes_on_without_kill(slurm: Slurm) -> None:
    slurm.set(deaf=True)
    job_id = slurm.submitted()
    done = slurm.wf("cancel", job_id, "--timeout", "0.2")
    assert done.exit_code == 1
    assert "it takes longer" in done.output
    assert slurm.state() == "RUNNING"
    assert len(slurm.calls("scancel")) == 1  # a second signal would end training without its checkpoint


def test_a_job_that_begins_while_it_is_cancelled_is_asked(slurm: Slurm) -> None:
    slurm.set(first_state="PENDING", begins_meanwhile=True)
    assert slurm.wf("cancel", slurm.submitted()).exit_code == 0
    assert [call[:-1] for call in slurm.calls("scancel")] == [
        ["--state=PENDING"],
        ["--batch", "--signal=USR1"],
    ]


def other_time(job_id: str, hours: int) -> Callable[[Slurm], None]:
    return lambda slurm: slurm.change(job_id, SubmitTime=stamp(NOW + timedelta(hours=hours)))


DIFFERENT: dict[str, tuple[Callable[[Slurm], None], str]] = {
    "user": (lambda slurm: slurm.change("17", UserName="bob"), f"its user is 'bob', not '{ME}'"),
    "name": (lambda slurm: slurm.change("17", Name="wf-train"), "its name is 'wf-train', not 'wf-"),
    "cluster": (lambda slurm: slurm.set(cluster="other"), "its cluster is 'other', not 'loop'"),
    "no token": (lambda slurm: slurm.change("17", Comment="(null)"), "it carries no token"),
    "token": (lambda slurm: slurm.change("17", Comment=f"wf:{'0' * 32}"), "its token is another"),
    "later": (other_time("17", 1), "it was submitted 3600 s later"),
    "earlier": (other_time("17", -1), "it was submitted 3600 s earlier"),
    "reused id": (lambda slurm: slurm.gone_foreign_id(), "its user is 'bob'"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_cancel_refuses_what_is_not_the_job_that_was_submitted(slurm: Slurm, what: str) -> None:
    change, told = DIFFERENT[what]
    job_id = slurm.submitted()
    change(slurm)
    state = slurm.state()
    done = slurm.wf("cancel", job_id, "--kill", "--timeout", "0")
    assert done.exit_code == 1
    assert "refused: job 17 of" in done.output
    assert told in done.output
    assert slurm.state() == state
    assert not slurm.calls("scancel")
    assert not (slurm.runs / job_id / "cancel.json").exists()
    assert slurm.rows()[0]["state"] == "lost"


def test_a_job_that_was_queued_again_is_ours_with_its_new_time(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    slurm.change("17", SubmitTime=stamp(NOW + timedelta(hours=1)), RestartCnt="1")
    assert slurm.rows()[0]["state"] == "running"
    assert slurm.wf("cancel", job_id).exit_code == 0


def test_a_stolen_name_and_token_are_not_enough(slurm: Slurm) -> None:
    """bob reads our comment and submits the same; our own record of the id is lost."""
    job_id = slurm.submitted()
    (slurm.runs / job_id / "submitted.json").unlink()
    ours = slurm.read()["jobs"]["17"]
    slurm.gone_foreign_id()
    slurm.change("17", Name=ours["Name"], Comment=ours["Comment"])
    done = slurm.wf("cancel", job_id)
    assert done.exit_code == 1
    assert "its user is 'bob'" in done.output
    assert slurm.state() == "RUNNING"


def test_a_record_of_another_job_is_damaged(slurm: Slurm) -> None:
    first = slurm.submitted()
    second = slurm.submitted()
    (slurm.runs / second / "submitted.json").write_bytes((slurm.runs / first / "submitted.json").read_bytes())
    done = slurm.wf("cancel", second)
    assert done.exit_code == 1
    assert "submitted.json is damaged: it is of another job" in done.output
    assert slurm.state("17") == slurm.state("18") == "RUNNING"


@pytest.mark.parametrize("text", ["{", '{"id": 17}', "\udcff"])
@pytest.mark.parametrize("name", ["submitted.json", "job.json", "exit.json"])
def test_damaged_records_are_told_and_nothing_is_cancelled(slurm: Slurm, name: str, text: str) -> None:
    job_id = slurm.submitted()
    (slurm.runs / job_id / name).write_text(text, errors="surrogateescape")
    (row,) = slurm.rows()
    assert row["state"] == "damaged"
    assert name in row["problem"]
    assert slurm.wf("cancel", job_id).exit_code == 1
    assert slurm.state() == "RUNNING"


@pytest.mark.parametrize(
    "resources", [None, 5, {}, [], {"gpu": 5}, {"num_nodes": 0}, {"gpu": "x y"}, {"other": 1}, {"spot": "no"}]
)
def test_resources_of_a_record_are_checked(slurm: Slurm, resources: object) -> None:
    job_id = slurm.submitted()
    path = slurm.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resources": resources}))
    (row,) = slurm.rows()
    assert row["state"] == ("running" if resources == {} else "damaged")


def test_a_record_names_a_back_end_that_there_is(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    path = slurm.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cloud": "moon"}))
    assert "cloud is 'moon', not one of local, " in slurm.rows()[0]["problem"]


def test_records_from_before_back_ends_had_names_are_local(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    path = slurm.runs / job_id / "job.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: values[key] for key in values if key not in ("cloud", "resources")}))
    (row,) = slurm.rows()
    assert (row["cloud"], row["state"]) == ("local", "starting")


def test_a_submission_that_is_not_there_after_a_minute_is_lost(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    (slurm.runs / job_id / "submitted.json").unlink()
    slurm.set(jobs={})
    assert slurm.rows()[0]["state"] == "starting"
    path = slurm.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_s": time.time() - 100}))
    assert slurm.rows()[0]["state"] == "lost"
    assert "refused: Slurm has no job with the token" in slurm.wf("cancel", job_id).output


def test_a_job_that_slurm_ended_and_forgot_is_cancelled(slurm: Slurm) -> None:
    job_id = slurm.submitted()
    (slurm.runs / job_id / "ended").touch()
    slurm.change("17", State="PENDING")  # preempted: it begins again
    assert slurm.rows()[0]["state"] == "pending"
    slurm.set(jobs={})
    assert slurm.rows()[0]["state"] == "cancelled"


def test_a_cancel_that_was_not_delivered_is_none(slurm: Slurm) -> None:
    """The batch script would take the mark for one."""
    job_id = slurm.submitted()
    slurm.set(scancel_fails=True)
    done = slurm.wf("cancel", job_id)
    assert done.exit_code == 1
    assert "Unable to contact slurm controller" in done.output
    assert not (slurm.runs / job_id / "cancel.json").exists()


def test_a_cancel_that_was_delivered_stays_though_slurm_answers_no_more(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = slurm.submitted()
    signal = client.signal_batch_script

    def then_goes_down(*arguments: str) -> None:
        signal(*arguments)
        slurm.set(down=True)

    monkeypatch.setattr(client, "signal_batch_script", then_goes_down)
    assert slurm.wf("cancel", job_id).exit_code == 1
    assert json.loads((slurm.runs / job_id / "cancel.json").read_text())["is_delivered"] is True


def test_nodes_without_a_common_disk_see_the_workspace_alone(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wf_deployer.backends.slurm.backend.workspace_root", lambda: slurm.folder)
    paths = ("output_dir=/scratch", "data.path=/data/text", f"a={slurm.folder}/x")
    assert slurm.train(*paths, "--dry-run").exit_code == 0
    done = slurm.train("distributed.shared_output=false", *paths)
    assert done.exit_code == 2
    assert done.output.startswith("error: data.path=/data/text: '/data/text' is a path of this machine")
    assert not slurm.read()["jobs"].keys() & {"17"}


@pytest.fixture
def evaluated(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    def described(*_: object) -> dict[str, Any]:
        words = ["--model-path", "/shared/mine.gguf", "--text", "gs://b/wiki"]
        return {"label": "mine.gguf", "arguments": words, "inputs": {"gs://b/wiki": []}, "on_gpu": False}

    monkeypatch.setattr("wf_deployer.commands.elsewhere._described", described)
    return slurm


def evaluate(slurm: Slurm, *arguments: str) -> Result:
    return slurm.wf("eval", "--cloud", "slurm", "--model-path", "/shared/mine.gguf", *arguments)


def test_an_evaluation_reads_the_files_that_nodes_share(evaluated: Slurm) -> None:
    done = evaluate(evaluated, "--cpus", "8", "--time", "2h")
    assert done.exit_code == 0, done.output
    job_id = done.output.split()[1]
    script = (evaluated.runs / job_id / "job.sh").read_text()
    assert "--model-path /shared/mine.gguf --text" in script
    assert f'put "$scratch/results" {evaluated.runs}/{job_id}/output/{job_id}' in script
    (submission,) = evaluated.calls("sbatch")
    assert "--cpus-per-task=8" in submission
    assert "--time=120" in submission
    (row,) = evaluated.rows()
    assert (row["state"], row["kind"], row["experiment"]) == ("running", "eval", "mine.gguf")
    assert evaluated.wf("cancel", job_id).exit_code == 0
    assert evaluated.foreign() == {"1": "RUNNING", "2": "PENDING", "3": "SUSPENDED"}


def test_only_what_resumes_is_asked_to_stop_before_its_time_limit(evaluated: Slurm) -> None:
    """Queued again, an evaluation would begin anew, as often as it takes: never done."""
    assert evaluate(evaluated).exit_code == 0
    evaluated.submitted()
    has_signal = [any(word.startswith("--signal=") for word in call) for call in evaluated.calls("sbatch")]
    assert has_signal == [False, True]
