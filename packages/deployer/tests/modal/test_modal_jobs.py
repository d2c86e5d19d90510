"""`wf train --cloud modal` and what follows, on a table of calls of two users (fake_client.py)."""

from __future__ import annotations

import errno
import fcntl
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_client import EXCEPTION, NOW
from modal_table import Wf


def test_a_job_is_called_once_with_what_it_asks_for(wf: Wf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WF_MODAL_SECRETS", "huggingface:HF_TOKEN aws:AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("WF_MODAL_RETRIES", "5")
    monkeypatch.setenv("WF_MODAL_VOLUME", "ours")
    job_id = wf.submitted("--gpu", "h100:8,A100-80GB:8", "--cpus", "16", "--time", "12h")
    assert wf.modal.asked.count("spawn") == 1
    values = wf.values(job_id)
    assert values["gpu"] == ["H100:8", "A100-80GB:8"]
    assert (values["cpus"], values["timeout_s"], values["retries"]) == (16, 43200, 5)
    assert values["volume"] == "ours"
    assert values["secrets"]["aws"] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert values["several"]
    (shell, _, line) = values["command"]
    assert shell == "bash"
    assert "--nproc-per-node=8" in line
    assert "distributed.devices=8" in line
    assert line.endswith("output_dir=/outputs")
    record = json.loads((wf.runs / job_id / "job.json").read_text())
    assert record["run_folder"] is None
    assert json.loads((wf.runs / job_id / "submitted.json").read_text()) == {
        "id": wf.app.tags["wf-call"],
        "name": f"wf-{job_id}",
        "user": "alice",
        "endpoint": "lab",
        "submitted_s": int(NOW.timestamp()),
        "token": record["token"],
        "restarts": 0,
    }
    assert wf.app.tags["wf-token"] == record["token"]
    assert wf.app.tags["wf-run"] == job_id


def test_one_process_on_cpus_for_8_hours_is_what_is_asked_without_options(wf: Wf) -> None:
    done = wf.train()
    assert "modal volume get wf-outputs small/stage2" in done.output
    values = wf.values(done.output.split()[1])
    assert (values["gpu"], values["cpus"], values["timeout_s"], values["retries"]) == ([], None, 28800, 3)
    assert values["command"][0] == "/wf/.venv/bin/python"
    assert values["command"][-2:] == ["steps=3", "output_dir=/outputs"]


def test_what_is_sent_is_the_checkout_without_secrets_results_and_links_that_lead_out(
    wf: Wf, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def look(app: Path, record: Path) -> None:
        checkout = app.with_name("checkout")
        sent.extend(str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file())
        real(app, record)

    from wf_deployer.backends.modal import client

    real = client.submit
    monkeypatch.setattr(client, "submit", look)
    job_id = wf.submitted()
    assert sorted(sent) == [".gitignore", "link", "pyproject.toml", "src/a.py", "uv.lock"]
    assert not (wf.runs / job_id / "checkout").exists()


def test_a_dry_run_shows_the_app_and_asks_modal_nothing(wf: Wf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    done = wf.train("--gpu", "H100:2", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "'gpu': ['H100:2']" in done.stdout
    assert "single_use_containers=True" in done.stdout
    assert "# read by modal 1.6.4; with it go 5 files of the checkout" in done.stdout
    assert not wf.modal.asked
    assert not wf.runs.exists()
    compile(done.stdout, "app.py", "exec")


REFUSED = {
    ("--gpu", "H1000:8"): "--gpu H1000:8: Modal has no H1000; it has T4, L4",
    ("--gpu", "A10:8"): "--gpu A10:8: Modal has up to 4 in a machine; write A10:4",
    ("--gpu", "8"): "--gpu 8: Modal wants a kind, such as H100:8",
    ("--gpu", "H100:8,H200:4"): "--gpu H100:8,H200:4: as many of each",
    ("--gpu", "H100:8,"): "--gpu '' is no GPU",
    ("--time", "25h"): "--time of 90000 s: on Modal a start has up to 24 h",
    ("--time", "5m"): "--time of 300 s: on Modal",
    ("--time", "8"): "--time '8' is no time; write a number with s, m, h or d",
    ("--time", "400d"): "--time of 34560000 s: give 1 s to 365 d",
    ("--num-nodes", "2"): "--num-nodes 2: on Modal a job is one machine",
    ("--spot",): "--spot: each machine of Modal may be taken away",
    ("data.token=abcdef",): "data.token=***: the command is written into the app",
    ("output_dir=/data",): "output_dir=/data: leave it out",
    ("training.start_from=models/mine",): "training.start_from=models/mine: 'models/mine' is a path of this",
    ("data.path=../text",): "data.path=../text: '../text' is a path of this machine",
    (
        "data.sources=[{kind: path, name: a, location: [/x]}]",
    ): "data.sources=[{kind: path, name: a, location: [/x]}]: '/x' is a path of this machine",
}
VARIABLES = {
    ("WF_MODAL_RETRIES", "11"): "WF_MODAL_RETRIES='11': give 0 to 10",
    ("WF_MODAL_RETRIES", "-1"): "WF_MODAL_RETRIES='-1': give 0 to 10",
    ("WF_MODAL_VOLUME", "a/b"): "WF_MODAL_VOLUME='a/b' is no name",
    ("WF_MODAL_SECRETS", "HF_TOKEN=hf_x"): "WF_MODAL_SECRETS: write the names",
    ("WF_MODAL_SECRETS", "huggingface"): "WF_MODAL_SECRETS: write the names",
}


@pytest.mark.parametrize("arguments", [*REFUSED, *VARIABLES])
def test_wrong_requests_are_one_line_and_submit_nothing(
    wf: Wf, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    if arguments in VARIABLES:
        monkeypatch.setenv(*arguments)
        done = wf.train()
    else:
        done = wf.train(*arguments)
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"error: {(REFUSED | VARIABLES)[arguments]}")
    assert len(done.output.splitlines()) == 1
    assert "abcdef" not in done.output
    assert "hf_x" not in done.output
    assert not wf.modal.asked
    assert not wf.runs.exists()


def test_paths_in_the_volume_and_of_the_checkout_are_taken(wf: Wf) -> None:
    wf.submitted("training.start_from=/outputs/small/stage1/final", "data.path=src/a.py", "a=s3://b/c")


def test_without_a_token_nothing_is_asked(wf: Wf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    done = wf.train()
    assert done.exit_code == 2
    assert "neither MODAL_TOKEN_ID nor" in done.output
    assert not wf.modal.asked
    assert not wf.runs.exists()


def test_a_full_disk_leaves_no_job(wf: Wf, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr("wf_deployer.backends.modal.generate.shutil.copy2", copy)
    done = wf.train()
    assert done.exit_code == 1
    assert done.output.startswith(f"error: {wf.runs}")
    assert "No space left on device" in done.output
    assert list(wf.runs.iterdir()) == []
    assert not wf.modal.asked


REFUSALS = {
    ("hello", "AuthError"): "nothing was submitted: Modal does not take the token: words; `uv tool run modal",
    ("run", "ConnectionError"): "nothing was submitted: Modal does not answer",
    ("spawn", "InvalidError"): "nothing was submitted: Modal: words",
    ("run", "NotFoundError"): "nothing was submitted: Modal: words",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_modal_refuses_leaves_no_job(wf: Wf, what: tuple[str, str]) -> None:
    wf.modal.raises[what[0]] = getattr(EXCEPTION, what[1])("words")
    done = wf.train()
    assert done.exit_code == 2, done.output
    assert REFUSALS[what] in done.output
    assert list(wf.runs.iterdir()) == []


def test_a_call_whose_answer_is_lost_is_told_and_its_app_kept(wf: Wf) -> None:
    wf.modal.raises["spawn"] = EXCEPTION.ConnectionError("lost")
    done = wf.train()
    assert done.exit_code == 1
    assert "whether Modal has made the call is not known: look at its app ap-" in done.output
    row = wf.row()
    assert row["state"] == "lost"
    assert "has no call" in row["problem"]
    done = wf("cancel", row["id"])
    assert done.exit_code == 1
    assert "has no call; nothing was touched" in done.output
    assert "cancel" not in wf.modal.asked


def test_a_call_that_could_not_be_written_down_is_found_by_the_tag_of_its_app(wf: Wf) -> None:
    job_id = wf.submitted()
    (wf.runs / job_id / "submitted.json").unlink()
    path = wf.runs / job_id / "modal.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"call_id": None}))
    assert wf.row()["state"] == "running"
    assert wf("logs", job_id).stdout == "begun\n"
    assert wf("cancel", job_id).exit_code == 0


def test_a_connection_that_is_lost_after_the_call_does_no_harm(wf: Wf) -> None:
    wf.modal.raises["disconnect"] = EXCEPTION.ConnectionError("lost")
    done = wf.train()
    assert done.exit_code == 1
    assert "was submitted, but then: Modal does not answer" in done.output
    wf.modal.raises.clear()
    row = wf.row()
    assert row["state"] == "running"
    assert wf("cancel", row["id"]).exit_code == 0
    assert (wf.runs / row["id"] / "submitted.json").is_file()


def test_a_submission_that_was_killed_before_there_was_an_app_is_lost(wf: Wf) -> None:
    job_id = wf.submitted()
    folder = wf.runs / job_id
    for name in ("modal.json", "submitted.json"):
        (folder / name).unlink()
    assert wf.row()["state"] == "starting"
    record = folder / "job.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"created_s": time.time() - 100}))
    with (folder / "modal.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert wf.row()["state"] == "starting"  # the first image takes minutes
    assert wf.row()["state"] == "lost"
    assert wf("cancel", job_id).exit_code == 1
    assert wf.train().exit_code == 0


def test_two_jobs_do_not_write_one_run_folder(wf: Wf) -> None:
    job_id = wf.submitted()
    done = wf.train()
    assert done.exit_code == 2
    assert f"{job_id} is running and writes small/stage2" in done.output
    assert wf.modal.asked.count("spawn") == 1
    wf.call.state, wf.call.returned = "ended", {"returncode": 0, "cancelled": False, "ended_s": 7.0}
    assert wf.train().exit_code == 0


def returned(code: int, cancelled: bool = False) -> dict[str, Any]:
    return {"returncode": code, "cancelled": cancelled, "ended_s": 9.0}


STATES: list[tuple[str, Any, str]] = [
    ("pending", None, "pending"),
    ("running", None, "running"),
    ("ended", returned(0), "finished"),
    ("ended", returned(1), "failed"),
    ("ended", returned(143, True), "cancelled"),
    ("ended", {"returncode": "0"}, "damaged"),
    ("ended", None, "damaged"),
    ("FunctionTimeoutError", "after 4 starts", "failed"),
    ("RemoteError", "out of memory", "failed"),
    ("InputCancellation", "by the dashboard", "failed"),
    ("ServiceError", "try again", "unknown"),
    ("OutputExpiredError", None, "lost"),
]


@pytest.mark.parametrize(("state", "value", "shown"), STATES)
def test_states(wf: Wf, state: str, value: Any, shown: str) -> None:
    job_id = wf.submitted()
    wf.call.state, wf.call.returned = state, value
    wf.call.log = [] if state == "pending" else ["begun\n"]
    row = wf.row()
    assert row["state"] == shown
    assert "Error" not in str(row["problem"]) or state in row["problem"]
    if shown in ("finished", "cancelled"):
        assert row["exit_code"] == value["returncode"]
        wf.modal.calls.clear()  # the end is written down
        assert wf.row()["state"] == shown
        assert wf("cancel", job_id).exit_code == 1


def test_a_modal_that_does_not_answer_is_no_damaged_record(wf: Wf) -> None:
    job_id = wf.submitted()
    wf.modal.raises["lookup"] = EXCEPTION.ConnectionError("no network")
    row = wf.row()
    assert row["state"] == "unknown"
    assert "Modal does not answer" in row["problem"]
    assert wf("cancel", job_id).exit_code == 1
    wf.modal.raises.clear()
    assert wf.row()["state"] == "running"


def test_logs(wf: Wf) -> None:
    job_id = wf.submitted()
    wf.call.log = ["one\n", "two\n"]
    assert wf("logs", job_id).stdout == "one\ntwo\n"
    assert wf("logs", "-n", "1", job_id).stdout == "two\n"
    assert wf("logs", "-f", job_id).stdout == "one\ntwo\nlater\n"  # what was shown is not shown again


@pytest.mark.parametrize("state", ["running", "pending"])
@pytest.mark.parametrize("is_deaf", [False, True])
def test_every_command_leaves_calls_of_others_alone(wf: Wf, state: str, is_deaf: bool) -> None:
    before = wf.modal.foreign()
    wf.modal.first_state = state
    job_id = wf.submitted()
    wf.call.is_deaf = is_deaf
    for command in (["runs"], ["logs", job_id]):
        assert wf(*command).exit_code == 0
    done = wf("cancel", job_id, *(["--kill", "--timeout", "0.1"] if is_deaf else []))
    assert done.exit_code == 0, done.output
    assert f"{job_id}: cancelled" in done.stdout
    assert wf("cancel", job_id).exit_code == 1
    assert wf.modal.foreign() == before
    assert not wf.app.is_stopped
    assert ("cancel" in wf.modal.asked) == (is_deaf or state == "pending")


def test_a_deaf_job_goes_on_without_kill(wf: Wf) -> None:
    job_id = wf.submitted()
    wf.call.is_deaf = True
    done = wf("cancel", job_id, "--timeout", "0.1")
    assert done.exit_code == 1
    assert "it takes longer" in done.output
    assert wf.call.state == "running"


def changed_app(**values: Any) -> Callable[[Wf], None]:
    return lambda wf: [setattr(app, key, value) for app in [wf.app] for key, value in values.items()] and None


def changed_tags(**values: str) -> Callable[[Wf], None]:
    return lambda wf: wf.app.tags.update({f"wf-{key}": value for key, value in values.items()})


DIFFERENT: dict[str, tuple[Callable[[Wf], None], str]] = {
    "name": (changed_app(name="wf-train"), "its name is 'wf-train', not 'wf-"),
    "workspace": (lambda wf: setattr(wf.modal, "workspace", "other"), "its cluster is 'other', not 'lab'"),
    "no token": (lambda wf: wf.app.tags.pop("wf-token"), "it carries no token"),
    "token": (changed_tags(token="0" * 32), "its token is another"),
    "call": (changed_tags(call="fc-bob1"), "its id is 'fc-bob1', not 'fc-"),
    "later": (changed_app(created_at=NOW + timedelta(hours=1)), "it was submitted 3600 s later"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_cancel_refuses_what_is_not_the_job_that_was_submitted(wf: Wf, what: str) -> None:
    change, told = DIFFERENT[what]
    job_id = wf.submitted()
    before = wf.modal.foreign()
    call = wf.call
    change(wf)
    done = wf("cancel", job_id, "--kill", "--timeout", "0")
    assert done.exit_code == 1
    assert "refused: job fc-" in done.output
    assert told in done.output
    assert call.state == "running"
    assert "cancel" not in wf.modal.asked
    assert wf.modal.foreign() == before
    assert not (wf.runs / job_id / "cancel.json").exists()
    assert wf.row()["state"] == "lost"


def test_another_users_app_is_refused(wf: Wf) -> None:
    job_id = wf.submitted()
    call, app_ = wf.call, wf.app
    app_.user = "bob"
    done = wf("cancel", job_id, "--kill")
    assert "its user is 'bob', not 'alice'" in done.output
    assert call.state == "running"


@pytest.mark.parametrize("call_id", ["fc-bob1", "fc-bob2"])
def test_a_record_with_a_call_of_others_is_refused(wf: Wf, call_id: str) -> None:
    job_id = wf.submitted()
    before = wf.modal.foreign()
    for name, key in (("modal.json", "call_id"), ("submitted.json", "id")):
        path = wf.runs / job_id / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: call_id}))
        assert wf("cancel", job_id, "--kill", "--timeout", "0").exit_code == 1
    assert wf.modal.foreign() == before
    assert "cancel" not in wf.modal.asked


def test_a_record_with_an_app_of_others_is_refused(wf: Wf) -> None:
    job_id = wf.submitted()
    before = wf.modal.foreign()
    path = wf.runs / job_id / "modal.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"app_id": "ap-bob1"}))
    done = wf("cancel", job_id, "--kill", "--timeout", "0")
    assert "its user is 'bob'" in done.output
    assert wf.modal.foreign() == before


@pytest.mark.parametrize("text", ["{", '{"app_id": 17}', "\udcff"])
@pytest.mark.parametrize("name", ["modal.json", "submitted.json", "job.json", "exit.json"])
def test_damaged_records_are_told_and_nothing_is_cancelled(wf: Wf, name: str, text: str) -> None:
    job_id = wf.submitted()
    (wf.runs / job_id / name).write_text(text, errors="surrogateescape")
    row = wf.row()
    assert row["state"] == "damaged"
    assert name in row["problem"]
    assert wf("cancel", job_id).exit_code == 1
    assert wf.call.state == "running"


def test_a_wf_that_was_killed_right_after_the_call_left_a_job_that_can_be_cancelled(wf: Wf) -> None:
    job_id = wf.submitted()
    (wf.runs / job_id / "submitted.json").unlink()
    assert wf.row()["state"] == "running"
    assert wf("cancel", job_id).exit_code == 0


@pytest.mark.parametrize("state", ["pending", "running"])
def test_a_cancel_that_was_not_delivered_is_none(wf: Wf, state: str) -> None:
    wf.modal.first_state = state
    job_id = wf.submitted()
    wf.modal.raises["cancel" if state == "pending" else "set_tags"] = EXCEPTION.ConnectionError("lost")
    done = wf("cancel", job_id)
    assert done.exit_code == 1
    assert "Modal does not answer" in done.output
    assert not (wf.runs / job_id / "cancel.json").exists()
    wf.call.state, wf.call.returned = "RemoteError", "out of memory"
    assert wf.row()["state"] == "failed"


@pytest.mark.parametrize("step", ["run", "spawn"])
def test_ctrl_c_while_it_is_submitted(wf: Wf, step: str) -> None:
    """Before there is an app nothing is left; after it the command is told that ends it."""
    wf.modal.raises[step] = KeyboardInterrupt()
    done = wf.train()
    assert done.exit_code == 130
    found = list(wf.runs.iterdir())
    assert [path.name for path in found] == ([] if step == "run" else [wf.row()["id"]])
    assert all(f"`wf cancel {path.name}` ends it" in done.output for path in found)
    assert not list(wf.runs.glob("*/checkout"))


def test_the_files_of_a_submission_that_was_killed_are_removed(wf: Wf) -> None:
    job_id = wf.submitted()
    (wf.runs / job_id / "checkout").mkdir()
    wf.row()
    assert (wf.runs / job_id / "checkout").exists()  # it may be at work
    path = wf.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_s": time.time() - 100}))
    wf.row()
    assert not (wf.runs / job_id / "checkout").exists()
