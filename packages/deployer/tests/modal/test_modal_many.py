"""`wf runs` with many jobs and services of Modal: one program asks for all; each is decided alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from fake_client import EXCEPTION, Program
from modal_table import Wf

from wf_deployer.backends.isolated import LateError
from wf_deployer.backends.modal import client
from wf_deployer.backends.record import JobFolder


@pytest.fixture
def three(wf: Wf, monkeypatch: pytest.MonkeyPatch) -> tuple[Wf, list[str], list[int]]:
    """Jobs of three experiments, and how many requests each program is asked."""
    ids = []
    for name in ("a", "b", "c"):
        run = {"stage": "stage2", "experiment": name, "run_folder": "/here"}
        monkeypatch.setattr("wf_deployer.commands.train.describe", lambda *_, run=run: run)
        ids.append(wf.submitted())
    programs: list[int] = []
    real = Program.ask_each

    def ask_each(self: Program, requests: Any, *, timeout_s: float) -> Any:
        programs.append(len(requests))
        return real(self, requests, timeout_s=timeout_s)

    monkeypatch.setattr(Program, "ask_each", ask_each)
    wf.modal.asked.clear()
    return wf, ids, programs


def states(wf: Wf) -> dict[str, str]:
    return {row["id"]: row["state"] for row in json.loads(wf("runs", "--json").stdout)}


def app_of(wf: Wf, job_id: str) -> Any:
    app_id = json.loads((wf.runs / job_id / "modal.json").read_text())["app_id"]
    return wf.modal.apps[app_id]


def test_modal_is_asked_by_one_program_and_foreign_apps_are_not_touched(
    three: tuple[Wf, list[str], list[int]],
) -> None:
    wf, ids, programs = three
    before = wf.modal.foreign()
    call = wf.modal.calls[app_of(wf, ids[2]).tags["wf-call"]]
    call.state, call.returned = "ended", {"returncode": 0, "cancelled": False, "ended_s": 7.0}
    assert states(wf) == {ids[0]: "running", ids[1]: "running", ids[2]: "finished"}
    assert programs == [3]
    assert wf.modal.asked.count("workspace") == 1
    assert wf.modal.foreign() == before
    assert states(wf)[ids[2]] == "finished"
    assert programs == [3, 2]  # an end is written down
    assert JobFolder.of(ids[2]).exit is not None


@pytest.mark.parametrize("what", ["name", "user", "token", "call", "gone"])
def test_what_is_not_ours_among_many_is_lost_alone(three: tuple[Wf, list[str], list[int]], what: str) -> None:
    wf, ids, _ = three
    app = app_of(wf, ids[1])
    if what == "gone":
        wf.modal.apps = {key: other for key, other in wf.modal.apps.items() if other is not app}
    elif what in ("token", "call"):
        app.tags[f"wf-{what}"] = {"token": "0" * 32, "call": "fc-bob1"}[what]
    else:
        setattr(app, what, "bob")
    assert states(wf) == {ids[0]: "running", ids[1]: "lost", ids[2]: "running"}


def test_a_record_that_cannot_be_read_hides_no_other(
    three: tuple[Wf, list[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wf, ids, _ = three
    real = client.read_submitted

    def read(path: Path) -> Any:
        if path.parent.name == ids[1]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(client, "read_submitted", read)
    assert states(wf) == {ids[0]: "running", ids[1]: "damaged", ids[2]: "running"}


def test_a_modal_that_does_not_answer_is_one_line(
    three: tuple[Wf, list[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wf, ids, _ = three
    wf.modal.raises["lookup"] = EXCEPTION.ConnectionError("no network")
    done = wf("runs")
    assert (
        done.stderr == f"{max(ids)} and 2 more: Modal does not answer; look at the network, and try again\n"
    )
    limits: list[float] = []

    def late(self: object, requests: list[Any], *, timeout_s: float) -> list[Any]:
        limits.append(timeout_s)
        return [LateError("program.py", timeout_s)] * len(requests)

    monkeypatch.setattr(Program, "ask_each", late)
    done = wf("runs", "--timeout", "20")
    assert done.exit_code == 0
    assert done.stdout.count("unknown") == 3
    assert done.stderr.startswith(f"{max(ids)} and 2 more: Modal has not answered within 20 s; try again")
    assert len(limits) == 1
    assert limits[0] <= 20


def test_an_exception_that_is_not_modals_is_no_damaged_record(
    three: tuple[Wf, list[str], list[int]],
) -> None:
    wf, ids, _ = three
    wf.modal.raises["get_tags"] = AttributeError("a newer client")
    assert states(wf) == dict.fromkeys(ids, "unknown")


def test_services_are_asked_for_together_too(wf: Wf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WF_MODAL_SECRETS", "wf-serve:WF_API_KEY")
    ids = [
        wf("serve", "--cloud", "modal", "--model", f"hub:me/{name}").stdout.split()[1] for name in ("a", "b")
    ]
    wf.modal.asked.clear()
    app_of(wf, ids[0]).tags["wf-token"] = "0" * 32
    assert states(wf) == {ids[0]: "lost", ids[1]: "running"}
    assert wf.modal.asked.count("workspace") == 1
    assert wf.modal.asked.count("lookup") == 2
