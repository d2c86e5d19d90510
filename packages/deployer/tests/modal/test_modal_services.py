"""`wf serve --cloud modal` and what follows, beside an app of another user (fake_client.py)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_client import EXCEPTION, NOW, load_app
from modal_table import Wf

URL = "gs://bucket/exports/mine"


@pytest.fixture
def served(wf: Wf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wf:
    monkeypatch.setenv("WF_MODAL_SECRETS", "wf-serve:WF_API_KEY")
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    return wf


def serve(wf: Wf, *arguments: str, model: str = URL) -> Result:
    return wf("serve", "--cloud", "modal", "--model", model, *arguments)


def started(wf: Wf, *arguments: str, model: str = URL) -> str:
    done = serve(wf, *arguments, model=model)
    assert done.exit_code == 0, done.output
    return done.stdout.split()[1]


def options_of(wf: Wf, job_id: str) -> dict[str, Any]:
    module = load_app(wf.runs / job_id / "app.py", wf.modal.module())
    options: dict[str, Any] = module.serve.options
    return options | {"module": module}


def test_the_app_is_a_web_server_that_scales_to_none(served: Wf) -> None:
    job_id = started(
        served, "--gpu", "L4:1", "--cpus", "8", "--replicas", "0-3", "--idle", "2m", "--", "--context", "9"
    )
    served.modal.notes.clear()
    options = options_of(served, job_id)
    module = options.pop("module")
    assert options.pop("image").steps
    assert options == {
        "gpu": ["L4:1"],
        "cpu": 8,
        "timeout": 3600,
        "startup_timeout": 3600,
        "min_containers": 0,
        "max_containers": 3,
        "scaledown_window": 120,
        "volumes": {},
        "secrets": [("wf-serve", ["WF_API_KEY"])],
    }
    assert served.modal.notes == [("concurrent", 64), ("web_server", 8080, 3600)]
    start = module.JOB["start"]
    assert start.startswith('python=/wf/.venv/bin/python\nmodel="$(mktemp -d)/model"\n')
    assert f'"$python" -m wf_stores.main get {URL} "$model" || exit' in start
    assert start.endswith('serve --model "$model" --host 0.0.0.0 --port 8080 --context 9\n')


def test_a_model_of_this_machine_lies_in_a_volume_that_containers_only_read(
    served: Wf, tmp_path: Path
) -> None:
    job_id = started(served, model=str(tmp_path / "mine.gguf"))
    assert served.modal.volumes["wf-models"] == {"/bob/a.gguf": b"bob's", f"/{job_id}/mine.gguf": b"GGUF"}
    (place, volume), *_ = options_of(served, job_id)["volumes"].items()
    assert (place, volume.name) == ("/model", "wf-models")
    assert volume.options == {"read_only": True, "sub_path": job_id}
    assert served("cancel", job_id).exit_code == 0
    assert served.modal.volumes["wf-models"] == {"/bob/a.gguf": b"bob's"}


def test_a_service_from_its_start_to_its_end_beside_those_of_others(served: Wf) -> None:
    before = served.modal.foreign()
    job_id = started(served)
    (app_id,) = [key for key, app in served.modal.apps.items() if app.user != "bob"]
    record = json.loads((served.runs / job_id / "job.json").read_text())
    assert json.loads((served.runs / job_id / "submitted.json").read_text()) == {
        "id": app_id,
        "name": f"wf-{job_id}",
        "user": "alice",
        "endpoint": "lab",
        "submitted_s": int(NOW.timestamp()),
        "token": record["token"],
        "restarts": 0,
    }
    row = served.row()
    assert (row["state"], row["kind"], row["url"]) == (
        "running",
        "serve",
        f"https://lab--wf-{job_id}-serve.run",
    )
    assert served("logs", job_id).stdout == "serving\nasked\n"
    assert served("logs", "-n", "1", job_id).stdout == "asked\n"
    done = served("cancel", job_id)
    assert (done.exit_code, done.stdout) == (0, f"{job_id}: cancelled\n")
    assert served.app.is_stopped
    assert served.row()["state"] == "cancelled"
    assert served("cancel", job_id).exit_code == 1
    assert served.modal.asked.count("stop") == 1
    assert served.modal.foreign() == before


def test_a_dry_run_shows_the_app_and_asks_modal_nothing(served: Wf) -> None:
    done = serve(served, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "@modal.web_server(" in done.stdout
    assert "# read by modal 1.6.4; with it go 5 files of the checkout" in done.stdout
    assert "wf_deployer" not in done.stdout
    compile(done.stdout, "app.py", "exec")
    assert not served.modal.asked
    assert not served.runs.exists()


REFUSED = {
    ("--gpu", "8"): "--gpu 8: Modal wants a kind",
    ("--spot",): "--spot: each machine of Modal may be taken away",
    ("--idle", "2h"): "--idle of 7200 s: Modal takes 2s to 60m",
    ("--qps", "2"): "--qps is SkyPilot's",
    ("--replicas", "3-1"): "--replicas 3-1: the second number",
    ("--model", "none.gguf"): "--model none.gguf: there is no such file",
    ("--", "--host", "x"): "--host: leave it out",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_requests_are_one_line_and_deploy_nothing(served: Wf, arguments: tuple[str, ...]) -> None:
    done = serve(served, *arguments)
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"error: {REFUSED[arguments]}")
    assert len(done.output.splitlines()) == 1
    assert not served.modal.asked
    assert not served.runs.exists()


def test_without_a_secret_for_the_key_nothing_is_deployed(
    served: Wf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WF_MODAL_SECRETS", "huggingface:HF_TOKEN")
    done = serve(served)
    assert done.exit_code == 2
    assert "WF_MODAL_SECRETS names no secret with WF_API_KEY, the key of clients" in done.output
    assert not served.modal.asked


def another_token(wf: Wf) -> None:
    wf.app.tags["wf-token"] = "0" * 32


def another_name(wf: Wf) -> None:
    wf.app.name = "wf-other"


def another_workspace(wf: Wf) -> None:
    wf.modal.workspace = "theirs"


DIFFERENT = {
    another_token: "its token is another",
    another_name: "its name is 'wf-other'",
    another_workspace: "its cluster is 'theirs'",
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_cancel_refuses_what_is_not_the_service_that_was_deployed(served: Wf, change: Any) -> None:
    job_id = started(served)
    change(served)
    done = served("cancel", job_id)
    assert done.exit_code == 1
    assert DIFFERENT[change] in done.output
    assert "stop" not in served.modal.asked
    assert not (served.runs / job_id / "cancel.json").exists()
    assert served.row()["state"] == "lost"


def test_a_cancel_that_was_not_delivered_is_none(served: Wf) -> None:
    job_id = started(served)
    served.modal.raises["stop"] = EXCEPTION.ConnectionError("lost")
    assert served("cancel", job_id).exit_code == 1
    assert served.row()["state"] == "running"
    served.modal.raises.clear()
    served.app.is_stopped = True
    row = served.row()
    assert (row["state"], row["problem"]) == ("lost", "its app was stopped, not by wf cancel")


@pytest.mark.parametrize("error", ["AuthError", "InvalidError"])
def test_what_modal_refuses_leaves_no_service(served: Wf, tmp_path: Path, error: str) -> None:
    served.modal.raises["deploy"] = getattr(EXCEPTION, error)("words")
    done = serve(served, model=str(tmp_path / "mine.gguf"))
    assert served.modal.volumes["wf-models"] == {"/bob/a.gguf": b"bob's"}
    assert done.exit_code == 2, done.output
    assert "nothing was deployed: Modal" in done.output
    assert list(served.runs.iterdir()) == []


@pytest.mark.parametrize("what", [KeyboardInterrupt(), EXCEPTION.ConnectionError("lost")])
def test_a_deployment_that_was_interrupted_is_found_by_name_and_token(
    served: Wf, what: BaseException
) -> None:
    served.modal.raises["workspace"] = what  # the app is there by then
    done = serve(served)
    served.modal.raises.clear()
    (job_id,) = [path.name for path in served.runs.iterdir()]
    assert done.exit_code == (130 if isinstance(what, KeyboardInterrupt) else 1)
    assert not (served.runs / job_id / "modal.json").exists()
    assert not (served.runs / job_id / "checkout").exists()
    assert served.row()["state"] == "running"
    assert served("cancel", job_id).exit_code == 0
    assert served.app.is_stopped


def test_a_service_that_modal_does_not_know_is_lost_after_a_while(served: Wf) -> None:
    job_id = started(served)
    for name in ("modal.json", "submitted.json"):
        (served.runs / job_id / name).unlink()
    for key in [key for key, app in served.modal.apps.items() if app.user == "alice"]:
        del served.modal.apps[key]
    assert served.row()["state"] == "starting"
    path = served.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_s": time.time() - 100}))
    assert served.row()["state"] == "lost"
    assert "refused: Modal: no app" in served("cancel", job_id).output
