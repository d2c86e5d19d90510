"""Records that somebody changed, clocks that were set, supervisors that were killed, secrets."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from wf_deployer.backends.base import JobSpec, JobState, new_job_id
from wf_deployer.backends.local.cancel import cancel
from wf_deployer.backends.local.identity import carries_token, identify, is_alive
from wf_deployer.backends.local.launch import launch
from wf_deployer.backends.local.record import LocalJob
from wf_deployer.backends.record import TOKEN_VARIABLE, JobRecord
from wf_deployer.errors import CommandError, CommandRequestError
from wf_deployer.main import app
from wf_formats.printable import printable

SLEEP = "print('at work', flush=True); import time; time.sleep(60)"


def wait_for(condition: Callable[[], object], timeout_s: float = 15) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def record(runs_dir: Path) -> Callable[..., LocalJob]:
    """Factory: the folder of a job that never ran, with changes to job.json."""

    def make(**changes: Any) -> LocalJob:
        spec = JobRecord(
            id=new_job_id("stage1"), kind="train", stage="stage1", experiment="x", command=["true"], cwd="/"
        )
        folder = runs_dir / spec.id
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(asdict(spec) | {"created_s": 1.0} | changes))
        (folder / "log.txt").touch()
        return LocalJob(folder)

    return make


def stranger_with(token: str | None) -> subprocess.Popen[bytes]:
    """A process of somebody else, whose environment and arguments the record could have been made to fit."""
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    environment |= {} if token is None else {TOKEN_VARIABLE: token}
    return subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env=environment, start_new_session=True
    )


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = stranger_with(None)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "token", [None, "", 0, True, [], {}, "python", sys.executable, "-c", "0" * 31, "G" * 32]
)
def test_cancel_signals_nobody_whatever_the_token(
    record: Callable[..., LocalJob], stranger: subprocess.Popen[bytes], token: object
) -> None:
    """Pid, time and process group are right; the token is one that any process would have."""
    job = record(token=token)
    job.write_processes(identify(stranger.pid), identify(stranger.pid))
    with pytest.raises(CommandError, match=r"token"):
        cancel(job, timeout_s=0.1, kill=True)
    assert stranger.poll() is None


def test_a_token_is_the_last_argument_or_in_the_environment(stranger: subprocess.Popen[bytes]) -> None:
    assert not carries_token(stranger.pid, "-c")
    assert not carries_token(2**22 + 1, "a" * 32)
    ours = stranger_with("a" * 32)
    try:
        wait_for(lambda: carries_token(ours.pid, "a" * 32))
        assert not carries_token(ours.pid, "b" * 32)
    finally:
        ours.kill()
        ours.wait()


def test_a_step_of_the_clock_changes_nothing(
    start: Callable[..., LocalJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boot time and creation times as psutil derives them move with the clock; ours do not."""
    import psutil

    job = start(SLEEP)
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + 3600)
    now = time.time
    for offset_s in (-86400, -10, 10, 86400):
        monkeypatch.setattr(time, "time", lambda offset_s=offset_s: now() + offset_s)
        assert job.state is JobState.running
    assert cancel(job, timeout_s=10) is JobState.cancelled


def test_a_process_of_another_boot_is_another_one() -> None:
    me = identify(os.getpid())
    assert is_alive(me)
    for other in (
        replace(me, boot_id="other"),
        replace(me, start_ticks=me.start_ticks + 1),
        replace(me, pid=2**22 + 1),
        replace(me, pid=10**11),
    ):
        assert not is_alive(other)
    with pytest.raises(ProcessLookupError, match="no process"):
        identify(2**22 + 1)


WRONG = [None, 5, -1.5, True, "text", [], [5], {}, {"a": 1}, "a\0b", 10**30]
FIELDS = {
    "id": WRONG[:4],
    "kind": WRONG[:4],
    "stage": WRONG[:4],
    "experiment": [*WRONG[:4], "a\0b"],
    "command": [None, 5, "text", {}, [5], [None]],
    "cwd": WRONG[:4],
    "run_folder": [5, True, [], {}, "a\0b"],
    "created_s": [None, True, "text", [], 10**30, float("nan"), float("inf")],
    "host": WRONG[:4],
    "token": WRONG[:4],
    "format": [None, 2, "1", [1]],
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name in FIELDS for value in FIELDS[name]])
def test_one_bad_record_is_shown_and_the_others_go_on(
    record: Callable[..., LocalJob], runner: CliRunner, field: str, value: object
) -> None:
    good, bad = record(), record(**{field: value})
    done = runner.invoke(app, ["runs", "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["id"]: row for row in json.loads(done.stdout)}
    assert rows[good.folder.name]["state"] == "lost"
    assert rows[bad.folder.name]["state"] == "damaged"
    assert str(bad.folder / "job.json") in rows[bad.folder.name]["problem"]
    done = runner.invoke(app, ["cancel", bad.folder.name])
    assert done.exit_code == 1
    assert f"error: {bad.folder / 'job.json'}" in done.output


TEXTS = ["", "{", "[]", "null", "5", '"x"', "{}", "[" * 100_000, '{"a": 1}', "\udcff"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["job.json", "process.json", "exit.json"])
def test_files_of_any_shape_are_damaged_records(
    record: Callable[..., LocalJob], runner: CliRunner, name: str, text: str
) -> None:
    good, bad = record(), record()
    (bad.folder / name).write_text(text, errors="surrogateescape")
    done = runner.invoke(app, ["runs"])
    assert done.exit_code == 0, done.output
    assert good.folder.name in done.stdout
    assert "damaged" in done.stdout
    assert f"{bad.folder.name}: {bad.folder / name} is" in done.stderr.replace("\n", "")
    for command in (["logs", bad.folder.name], ["cancel", bad.folder.name]):
        assert runner.invoke(app, command).exit_code == 1


def test_missing_and_further_fields_are_named(record: Callable[..., LocalJob]) -> None:
    job = record(extra=1)
    with pytest.raises(CommandError, match="'extra' is unknown"):
        _ = job.record
    job = record()
    values = json.loads((job.folder / "job.json").read_text())
    del values["command"]
    (job.folder / "job.json").write_text(json.dumps(values))
    with pytest.raises(CommandError, match="command is missing"):
        _ = job.record
    for process in (5, [], {}, {"pid": "1", "start_ticks": 1, "boot_id": ""}):
        (job.folder / "process.json").write_text(json.dumps({"supervisor": process, "child": None}))
        with pytest.raises(CommandError, match=r"process\.json is damaged"):
            _ = job.supervisor


@pytest.mark.parametrize("name", ["[red]", "[/x]", "\x1b[31m", "ü" * 300, "a\nb", "a\r\x0bb", "a\u2028b"])
def test_names_take_a_line_of_the_table(
    record: Callable[..., LocalJob], runner: CliRunner, name: str
) -> None:
    record(experiment=name, stage=name)
    done = runner.invoke(app, ["runs"])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2
    assert name[:2] in done.stdout or printable(name)[:3] in done.stdout
    assert not {"\x1b", "\r", "\u2028"} & set(done.stdout)


FOREIGN = ("nebius", "sky", "slurm", "modal")
RECORDED = {"id": "5", "name": "x", "user": "u", "endpoint": "e", "submitted_s": 1, "token": "0" * 32}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clouds that somebody was asked about; the answer is that there is none."""
    found: list[str] = []

    def ask(name: str) -> Callable[..., NoReturn]:
        def refuse(*_: object, **__: object) -> NoReturn:
            found.append(name)
            raise CommandRequestError("it cannot be asked")

        return refuse

    monkeypatch.setattr("wf_deployer.backends.isolated._start", ask("a program"))
    monkeypatch.setattr("wf_deployer.backends.slurm.client._run", ask("slurm"))
    return found


@pytest.mark.parametrize("name", ["exit.json", "submitted.json", "cancel.json"])
@pytest.mark.parametrize("cloud", FOREIGN)
def test_nobody_is_asked_about_a_damaged_record(
    record: Callable[..., LocalJob], runner: CliRunner, asked: list[str], cloud: str, name: str
) -> None:
    """Pipes are not opened: they would be waited for."""
    others = record(cloud=cloud)
    (others.folder / "submitted.json").write_text(json.dumps(RECORDED))
    for change in ("{", "5", "pipe", "folder"):
        path = record(cloud=cloud, upload="gs://b/x").folder / name
        if change == "pipe":
            os.mkfifo(path)
        elif change == "folder":
            path.mkdir()
        else:
            path.write_text(change)
    if cloud in ("sky", "nebius"):
        record(cloud=cloud, upload=None)
        (record(cloud=cloud, upload="gs://b/x").folder / "last_state.json").write_text("5")
    rows = json.loads(runner.invoke(app, ["runs", "--json"]).stdout)
    assert len(rows) >= 5
    assert {row["state"] for row in rows} == {"damaged"}
    assert all("is damaged: " in row["problem"] for row in rows)
    assert not asked


def test_a_log_that_is_a_pipe_is_not_waited_for(record: Callable[..., LocalJob], runner: CliRunner) -> None:
    log = record().log
    log.unlink()
    os.mkfifo(log)
    for options in ([], ["-f"], ["-n", "3"]):
        done = runner.invoke(app, ["logs", *options, log.parent.name])
        assert done.exit_code == 1
        assert done.output == f"error: {log} is damaged: it is no regular file\n"


@pytest.mark.parametrize("cloud", FOREIGN)
def test_others_are_asked_until_the_time_is_over(
    record: Callable[..., LocalJob], runner: CliRunner, asked: list[str], cloud: str
) -> None:
    job, ended, here = record(cloud=cloud, upload="gs://b/x"), record(cloud=cloud), record()
    (ended.folder / "exit.json").write_text('{"returncode": 0, "cancelled": false, "ended_s": 5.0}')
    (job.folder / "modal.json").write_text(json.dumps(SUBMITTED))
    rows = {
        row["id"]: row for row in json.loads(runner.invoke(app, ["runs", "--json", "--timeout", "0"]).stdout)
    }
    assert not asked
    assert (rows[job.folder.name]["state"], rows[ended.folder.name]["state"]) == ("unknown", "finished")
    assert "`wf runs --timeout 600`" in rows[job.folder.name]["problem"]
    assert rows[here.folder.name]["state"] == "lost"
    runner.invoke(app, ["runs"])
    assert asked


SUBMITTED = {"app_id": "ap-1", "call_id": None, "name": "x", "user": "u", "workspace": "w", "created_s": 1}


def test_a_job_whose_supervisor_was_killed_is_finished_if_its_result_is_there(
    start: Callable[..., LocalJob], tmp_path: Path
) -> None:
    source = (
        "import os, pathlib, time\n"
        "print('at work', flush=True)\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.02)\n"
        "pathlib.Path('run/final').mkdir(parents=True)\n"
        "pathlib.Path('run/final/wrinklefree.json').write_text('{}')\n"
    )
    job = start(source, run_folder=tmp_path / "run")
    assert job.supervisor is not None
    os.kill(job.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: "at work" in job.log.read_text())
    assert job.state is JobState.running
    (tmp_path / "go").touch()
    wait_for(lambda: job.state is not JobState.running)
    assert job.state is JobState.finished
    (tmp_path / "run" / "final" / "wrinklefree.json").unlink()
    assert job.state is JobState.lost


CUTS = {
    "step,train/loss\n1,5.5\n2\n3,4.5\n": "line 3 has 1 cells, not 2",
    "step,train/loss\n1,5.5\n2,1,2\n3,4.5\n": "line 3 has 3 cells, not 2",
    "1,5.5\n2,4.5\n": "names no step",
    "step,train/loss\n1,5.5\nx,4.5\n3,1\n": "line 3: could not convert",
    "step,train/loss\n3,5.5\n2,4.5\n4,1\n": "step 2 comes after step 3",
    'step,train/loss\n3,"5.5\n2,4.5\n': "unexpected end",
    "step,train/loss\nnan,5\n": "NaN",
    "step,train/loss\n1,\udcff\n": "utf-8",
}


@pytest.mark.parametrize("text", CUTS)
def test_metrics_cut_by_hand_are_told(
    record: Callable[..., LocalJob], runner: CliRunner, tmp_path: Path, text: str
) -> None:
    (tmp_path / "metrics.csv").write_text(text, errors="surrogateescape")
    job = record(run_folder=str(tmp_path))
    (row,) = json.loads(runner.invoke(app, ["runs", "--json"]).stdout)
    assert row["state"] == "lost"
    assert row["step"] is None
    assert CUTS[text] in row["problem"]
    assert f"{job.folder.name}: " in runner.invoke(app, ["runs"]).stderr


def test_job_folders_are_their_users_alone(start: Callable[..., LocalJob]) -> None:
    old = os.umask(0)
    try:
        job = start("pass")
    finally:
        os.umask(old)
    assert stat.S_IMODE(job.folder.stat().st_mode) == 0o700


SECRETS = ["hf_" + "a" * 34, "sk-" + "b" * 40, "hunter2-hunter2"]


def test_secrets_reach_the_job_and_nothing_that_is_written(runs_dir: Path, tmp_path: Path) -> None:
    source = "import sys, pathlib; pathlib.Path('seen').write_text(' '.join(sys.argv[1:]))"
    arguments = [f"x.token={SECRETS[0]}", SECRETS[1], "--password", SECRETS[2], "training.max_steps=3"]
    spec = JobSpec(
        id=new_job_id("stage2"),
        kind="train",
        stage="stage2",
        experiment="x",
        command=[sys.executable, "-c", source, *arguments],
        cwd=str(tmp_path),
    )
    job = launch(spec)
    wait_for(lambda: job.exit)
    assert (tmp_path / "seen").read_text() == " ".join(arguments)
    written = "".join(path.read_text() for path in job.folder.iterdir())
    assert not [secret for secret in SECRETS if secret in written]
    assert "training.max_steps=3" in job.record.command


@pytest.mark.parametrize("name", ["1e5", "true", "null", "a=b", "a,b", "(x", "it's", "~x", "übung", "${x}"])
def test_experiments_are_names(name: str, runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    seen: list[list[str]] = []

    def run(command: list[str]) -> NoReturn:
        seen.append(command)
        raise SystemExit(0)

    monkeypatch.setattr("wf_deployer.processes.become", run)
    assert runner.invoke(app, ["train", "-s", "1", "-e", name, "--foreground"]).exit_code == 0
    (override,) = OverridesParser.create().parse_overrides(seen[0][-1:])
    assert override.key_or_group == "experiment"
    assert override.value() == name.replace("${", r"\${")


def test_wrong_requests_have_their_own_exit_code(record: Callable[..., LocalJob], runner: CliRunner) -> None:
    record()
    for arguments in (["train", "-s", "2", "--cloud", "moon"], ["cancel", "nothing"], ["logs", "nothing"]):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2
        assert done.output.startswith("error: ")


def test_a_runs_folder_that_cannot_be_made_is_one_line(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    describing = "import json; print(json.dumps({'stage': '1', 'experiment': 'x', 'run_folder': '/x'}))"
    monkeypatch.setattr("wf_deployer.commands.train.TRAINER", [sys.executable, "-c", describing])
    for place in ("/proc/runs", "/dev/null/runs"):
        monkeypatch.setenv("WF_RUNS_DIR", place)
        done = runner.invoke(app, ["train", "-s", "1"])
        assert done.exit_code == 1
        assert done.output.startswith("error: /")
        assert len(done.output.splitlines()) == 1
