"""The batch script under bash, with an srun that runs its command here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from wf_deployer.backends.base import Resources
from wf_deployer.backends.slurm import script as script_module
from wf_deployer.backends.slurm.script import batch_script

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
echo $$ >"$FAKE/step"
exec "$@"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >>"$FAKE/calls"
kill -TERM "$(cat "$FAKE/step")"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >>"$FAKE/calls"
[ ! -e "$FAKE/no_requeue" ]
"""
STOPS = "trap 'sleep 0.3; echo saved; exit 143' TERM; echo at work; while :; do sleep 0.05; done"


class Script:
    def __init__(self, folder: Path) -> None:
        self.job = folder / "a job's 100% folder"
        self.job.mkdir()
        self.fake = folder / "fake"
        self.fake.mkdir()
        for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
            (self.fake / name).write_text(text)
            (self.fake / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{self.fake}:{os.environ['PATH']}",
            "FAKE": str(self.fake),
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "n1",
            "asked": "yes",
            "stopping": "yes",
            "SECONDS": "9999",
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        (self.fake / "job.sh").write_text(batch_script("a-job", self.job, command, Resources()))
        return subprocess.Popen(
            ["bash", str(self.fake / "job.sh")],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        process = self.start(*command)
        output, _ = process.communicate(timeout=20)
        return process.returncode, output

    def asked(self, *command: str) -> tuple[int, str]:
        """Runs a command that gets USR1 when it is at work."""
        process = self.start(*command)
        assert process.stdout is not None
        head = process.stdout.readline() + process.stdout.readline()
        assert "at work" in head
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=20)
        return process.returncode, head + output

    @property
    def calls(self) -> list[str]:
        path = self.fake / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def exit(self) -> dict[str, object] | None:
        path = self.job / "exit.json"
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 7, 143])
def test_the_exit_code_is_recorded(script: Script, code: int) -> None:
    returncode, _ = script.run("bash", "-c", f"exit {code}")
    assert returncode == code
    assert script.exit is not None
    assert (script.exit["returncode"], script.exit["cancelled"]) == (code, False)
    assert script.calls == []


def test_arguments_arrive_as_they_are(script: Script) -> None:
    arguments = ["a b", "it's", '"', "$HOME", "`id`", "new\nline", "", "*", "\\", "#SBATCH --array=1-9"]
    returncode, output = script.run("printf", "[%s]", *arguments)
    assert returncode == 0
    assert "".join(f"[{argument}]" for argument in arguments) in output


def test_a_job_that_was_cancelled_before_it_began_does_not_begin(script: Script) -> None:
    (script.job / "cancel.json").touch()
    returncode, output = script.run("bash", "-c", "echo ran")
    assert (returncode, "ran" in output) == (143, False)


def at_work(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    while "at work" not in process.stdout.readline():
        pass


def test_a_cancelled_job_saves_and_is_not_queued_again(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked twice (`wf cancel` just before the time limit), training gets one TERM."""
    monkeypatch.setattr(script_module, "GRACE_S", 0)
    process = script.start("bash", "-c", STOPS)
    at_work(process)
    (script.job / "cancel.json").touch()
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=20)
    assert output.count("saved") == 1
    assert script.exit is not None
    assert (script.exit["returncode"], script.exit["cancelled"]) == (143, True)
    assert script.calls == ["scancel --signal=TERM 17"]


def test_a_job_that_wf_cancel_killed_is_cancelled(script: Script) -> None:
    """`wf cancel --kill`: TERM for the script as well, and no doubt about whose wish it was."""
    process = script.start("bash", "-c", "echo at work; sleep 0.5; exit 5")
    at_work(process)
    (script.job / "cancel.json").touch()
    process.terminate()
    process.communicate(timeout=20)
    assert script.exit is not None
    assert (script.exit["returncode"], script.exit["cancelled"]) == (5, True)


def test_before_the_time_limit_it_saves_and_is_queued_again(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script_module, "GRACE_S", 0)
    returncode, output = script.asked("bash", "-c", STOPS)
    assert returncode == 0
    assert output.count("saved") == 1
    assert script.calls == ["scancel --signal=TERM 17", "scontrol requeue 17"]
    assert script.exit is None


def test_a_refused_requeue_is_told(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_module, "GRACE_S", 0)
    (script.fake / "no_requeue").touch()
    returncode, output = script.asked("bash", "-c", STOPS)
    assert returncode == 143
    assert "did not queue the job again" in output
    assert script.exit is not None


def test_a_time_limit_that_is_too_short_does_not_go_round_for_ever(script: Script) -> None:
    returncode, output = script.asked("bash", "-c", STOPS)
    assert returncode == 143
    assert "the time limit leaves less than 300 s" in output
    assert script.calls == ["scancel --signal=TERM 17"]


def test_training_that_ends_when_asked_is_finished(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_module, "GRACE_S", 0)
    done = "trap 'exit 0' TERM; echo at work; while :; do sleep 0.05; done"
    returncode, _ = script.asked("bash", "-c", done)
    assert returncode == 0
    assert script.calls == ["scancel --signal=TERM 17"]


def test_term_for_the_script_waits_for_the_step(script: Script) -> None:
    process = script.start("bash", "-c", "echo at work; sleep 0.5; exit 5")
    at_work(process)
    for _ in range(3):
        process.terminate()
        time.sleep(0.05)
    process.communicate(timeout=20)
    assert process.returncode == 5
    assert script.exit is None  # Slurm alone knows whether it begins again
    assert (script.job / "ended").exists()


def test_a_folder_that_the_node_does_not_see_is_told(script: Script) -> None:
    script.job.rename(script.job.with_name("elsewhere"))
    returncode, output = script.run("true")
    assert returncode == 2
    assert "must be on a file system that all nodes share" in output


def test_an_earlier_end_is_forgotten(script: Script) -> None:
    (script.job / "exit.json").write_text("{}")
    (script.job / "started").touch()
    script.run("bash", "-c", f"[ ! -e {script.job.parent}/*/exit.json ]")
    assert script.exit is not None
    assert script.exit["returncode"] == 0
