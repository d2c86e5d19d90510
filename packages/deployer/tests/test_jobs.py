"""Background jobs with real processes: start, list, follow, cancel, and what cancel must refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wf_deployer.backends.base import JobState
from wf_deployer.backends.local.cancel import cancel
from wf_deployer.backends.local.identity import identify
from wf_deployer.backends.local.record import LocalJob
from wf_deployer.backends.registry import find_job
from wf_deployer.commands.runs import age
from wf_deployer.errors import CommandError
from wf_deployer.main import app
from wf_formats.atomic import atomic_write_json

SLEEP = "print('at work', flush=True); import time; time.sleep(60)"
GRACEFUL = """
import signal, sys, time
def stop(*_):
    print('checkpoint written', flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print('at work', flush=True)
time.sleep(60)
"""


def wait_for(condition: Callable[[], object], timeout_s: float = 15) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


def at_work(job: LocalJob) -> bool:
    return "at work" in job.log.read_text()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of our jobs, in a session of its own."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(command, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_job_ends_and_its_exit_code_is_recorded(start: Callable[..., LocalJob], runner: CliRunner) -> None:
    job = start("print('hello'); raise SystemExit(5)")
    wait_for(lambda: job.exit)
    assert job.state is JobState.failed
    assert job.exit is not None
    assert job.exit.returncode == 5
    assert "hello" in runner.invoke(app, ["logs"]).output
    assert "failed (5)" in runner.invoke(app, ["runs"]).output


def test_a_job_leads_a_session_of_its_own(start: Callable[..., LocalJob]) -> None:
    job = start(SLEEP)
    assert job.child is not None
    assert job.supervisor is not None
    assert os.getsid(job.child.pid) == job.supervisor.pid != os.getsid(0)


def test_runs_shows_state_and_step(start: Callable[..., LocalJob], runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n1,5.5\n7,4.5\n8")
    job = start(SLEEP, run_folder=tmp_path)
    rows = json.loads(runner.invoke(app, ["runs", "--json"]).output)
    assert [(row["id"], row["state"], row["step"]) for row in rows] == [(job.folder.name, "running", 8)]
    assert job.record.token not in runner.invoke(app, ["runs", "--json"]).output


def test_logs_follow_until_the_end(start: Callable[..., LocalJob], runner: CliRunner) -> None:
    job = start("import time; print('first', flush=True); time.sleep(0.7); print('second')")
    result = runner.invoke(app, ["logs", "-f", job.folder.name])
    assert result.exit_code == 0
    assert "first" in result.output
    assert "second" in result.output
    assert "finished, exit code 0" in result.output


def test_logs_last_lines(start: Callable[..., LocalJob], runner: CliRunner) -> None:
    job = start("print('one'); print('two'); print('three')")
    wait_for(lambda: job.exit)
    assert runner.invoke(app, ["logs", "-n", "2"]).output.split() == ["two", "three"]


def test_cancel_lets_the_job_stop_by_itself(start: Callable[..., LocalJob], runner: CliRunner) -> None:
    job = start(GRACEFUL)
    wait_for(lambda: at_work(job))
    result = runner.invoke(app, ["cancel", job.folder.name, "--timeout", "15"])
    assert result.exit_code == 0
    assert f"{job.folder.name}: cancelled" in result.output
    assert "checkpoint written" in job.log.read_text()
    assert job.exit is not None
    assert job.exit.returncode == 143
    again = runner.invoke(app, ["cancel", job.folder.name])
    assert again.exit_code == 1
    assert "not running: it is cancelled" in again.output


def test_cancel_kills_only_when_asked(start: Callable[..., LocalJob]) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('at work', flush=True); "
    )
    job = start(deaf + "time.sleep(60)")
    wait_for(lambda: at_work(job))
    assert cancel(job, timeout_s=0.3) is JobState.running
    assert cancel(job, timeout_s=0.3, kill=True) is JobState.cancelled
    assert job.child is not None
    wait_for(lambda: b"Z" in _status(job.child.pid))


def test_cancel_refuses_a_recycled_pid(
    start: Callable[..., LocalJob], stranger: subprocess.Popen[bytes]
) -> None:
    """The record's pid now belongs to a process that was created at another time."""
    job = start(SLEEP)
    cancel(job, timeout_s=10, kill=True)
    (job.folder / "exit.json").unlink()
    job.write_processes(replace(identify(stranger.pid), start_ticks=1), None)
    assert job.state is JobState.lost
    with pytest.raises(CommandError, match=rf"refused: .*pid {stranger.pid} is another process now"):
        cancel(job, timeout_s=1, kill=True)
    assert stranger.poll() is None


def test_cancel_refuses_a_foreign_process(
    start: Callable[..., LocalJob], stranger: subprocess.Popen[bytes]
) -> None:
    """Pid and creation time are right (a made-up record), but the process has no token of ours."""
    job = start(SLEEP)
    cancel(job, timeout_s=10, kill=True)
    (job.folder / "exit.json").unlink()
    job.write_processes(identify(stranger.pid), None)
    with pytest.raises(CommandError, match=r"refused: the process .* is not the one that wf started"):
        cancel(job, timeout_s=1, kill=True)
    assert stranger.poll() is None


def test_cancel_refuses_another_machines_job(start: Callable[..., LocalJob]) -> None:
    job = start(SLEEP)
    spec = job.record
    atomic_write_json(job.folder / "job.json", asdict(replace(spec, host="elsewhere")))
    with pytest.raises(CommandError, match="runs on the machine 'elsewhere'"):
        cancel(job, timeout_s=1)
    atomic_write_json(job.folder / "job.json", asdict(spec))


def test_cancel_reaches_the_job_when_its_supervisor_is_gone(start: Callable[..., LocalJob]) -> None:
    job = start(SLEEP)
    assert job.supervisor is not None
    assert job.child is not None
    os.kill(job.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: b"Z" in _status(job.supervisor.pid))
    assert job.state is JobState.running
    cancel(job, timeout_s=10)
    wait_for(lambda: b"Z" in _status(job.child.pid))
    assert job.state is JobState.lost


def _status(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]
    except FileNotFoundError:
        return b"Z"


def test_a_command_that_cannot_start_is_recorded(start: Callable[..., LocalJob]) -> None:
    job = start("pass")
    wait_for(lambda: job.exit)
    (job.folder / "exit.json").unlink()
    command = [
        sys.executable,
        "-m",
        "wf_deployer.backends.local.supervise",
        str(job.folder),
        job.record.token,
    ]
    given = json.dumps(["/no/such/program"])
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "cannot start /no/such/program" in done.stderr
    assert job.state is JobState.failed


def test_find_job_by_prefix(start: Callable[..., LocalJob]) -> None:
    first, second = start("pass"), start("pass")
    assert find_job(None).id in (first.folder.name, second.folder.name)
    assert find_job(first.folder.name).id == first.folder.name
    with pytest.raises(CommandError, match="give more of the id"):
        find_job(first.folder.name[:8])
    with pytest.raises(CommandError, match="no job 'x'"):
        find_job("x")
    with pytest.raises(CommandError, match="the id of a job is empty"):
        find_job("")


def test_a_damaged_record_is_named(start: Callable[..., LocalJob]) -> None:
    job = start("pass")
    wait_for(lambda: job.exit)
    (job.folder / "job.json").write_text("{")
    with pytest.raises(CommandError, match=r"job\.json is damaged"):
        _ = job.record
    (job.folder / "job.json").write_text('{"format": 99}')
    with pytest.raises(CommandError, match="not a job record of format 1"):
        _ = job.record


FAKE_TRAINER = """
import json, pathlib, sys
assert sys.argv[-5:] == ["-s", "1.9", "experiment='mine'", "output_dir=it's, {here}", "training.max_steps=3"]
if "--describe" in sys.argv:
    folder = pathlib.Path("elsewhere/mine/stage1_9").resolve()
    print(json.dumps({"stage": "stage1_9", "experiment": "mine", "run_folder": str(folder)}))
else:
    print("trained")
"""
REFUSING_TRAINER = """
import sys
sys.stderr.write("configuration error: training.max_steps: 'oops' is not a number\\n")
sys.exit(2)
"""


def test_train_starts_a_job(
    runs_dir: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stage, experiment and folder are what the trainer says; arguments go on as they are."""
    monkeypatch.setattr("wf_deployer.commands.train.TRAINER", [sys.executable, "-c", FAKE_TRAINER])
    monkeypatch.chdir(tmp_path)
    overrides = ["output_dir=it's, {here}", "training.max_steps=3"]
    result = runner.invoke(app, ["train", "-s", "1.9", "-e", "mine", *overrides])
    assert result.exit_code == 0, result.output
    spec = find_job(None).record
    assert spec.stage == "stage1_9"
    assert spec.experiment == "mine"
    assert spec.run_folder == str(tmp_path / "elsewhere" / "mine" / "stage1_9")
    job = LocalJob(runs_dir / spec.id)
    wait_for(lambda: job.exit)
    assert "trained" in job.log.read_text()


def test_a_wrong_configuration_is_refused_before_a_job_starts(
    runs_dir: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wf_deployer.commands.train.TRAINER", [sys.executable, "-c", REFUSING_TRAINER])
    result = runner.invoke(app, ["train", "-s", "2", "training.max_steps=oops"])
    assert result.exit_code == 2
    assert "configuration error: training.max_steps: 'oops' is not a number" in capfd.readouterr().err
    assert not runs_dir.exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3660, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text
