"""Modal's own client: it reads a generated app, and talks to `fake_modal.py` as to Modal's servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import Result
from json_table import JsonTable
from typer.testing import CliRunner

from wf_deployer.backends.base import JobSpec, Resources
from wf_deployer.backends.isolated import IsolatedProgram
from wf_deployer.backends.modal import client
from wf_deployer.backends.modal.generate import job_values, write_app
from wf_deployer.backends.modal.settings import settings_of
from wf_deployer.backends.record import JobRecord
from wf_deployer.main import app

SERVER = Path(__file__).with_name("fake_modal.py")
INSPECT = """
import sys, types
from pathlib import Path

def answers(request):
    sys.path.insert(0, request["folder"])
    import modal, app
    from google.protobuf.json_format import MessageToDict
    spec = app.train._spec_
    yield {
        "gpu": spec.gpus,
        "cpu": spec.cpu,
        "volumes": [str(place) for place in spec.volumes],
        "num_secrets": len(spec.secrets),
        "version": modal.__version__,
    }
"""


@pytest.fixture(scope="module")
def modal_environment() -> None:
    """Modal's client comes from the registry of packages, once; uv keeps it."""
    command = ["uv", "tool", "run", "--isolated", "-q", "--from", client.REQUIREMENT, "python", "-c", ""]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"uv has no {client.REQUIREMENT}: {error}")
    if done.returncode != 0:
        pytest.skip(f"uv has no {client.REQUIREMENT}: {done.stderr.strip()[-300:]}")


@pytest.mark.slow
@pytest.mark.usefixtures("modal_environment")
def test_modals_client_reads_a_generated_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WF_MODAL_SECRETS", "huggingface:HF_TOKEN wandb:WANDB_API_KEY")
    resources = Resources("H100:8,A100-80GB:8", cpus=32)
    command = [sys.executable, "-m", "wrinklefree.train"]
    spec = JobSpec("job-1", "train", "stage2", "mine", command, "/", cloud="modal", resources=resources)
    write_app(tmp_path, JobRecord(**vars(spec)), job_values(spec, settings_of(resources)))
    program = tmp_path / "inspect_app.py"
    program.write_text(INSPECT)
    found = IsolatedProgram(client.REQUIREMENT, program).ask({"folder": str(tmp_path)}, timeout_s=120)
    assert found.pop("version").startswith("1.")
    assert found == {
        "gpu": ["H100:8", "A100-80GB:8"],
        "cpu": 32,
        "volumes": ["/outputs"],
        "num_secrets": 2,
    }


class Loopback(JsonTable):
    """The table of the server, and `wf` with it."""

    def __init__(self, folder: Path, runner: CliRunner) -> None:
        super().__init__(folder)
        self.runner = runner
        self.runs = folder / "runs"
        bob = {"name": "wf-train", "user": "bob", "created_s": 5.0, "tags": {}, "state": "detached"}
        self.write(
            {
                "user": "alice",
                "workspace": "lab",
                "next": 100,
                "now": int(time.time()),
                "apps": {f"ap-{1:022d}": bob},
                "calls": {"fc-1": self.call("bob", "running")},
                **{name: {} for name in ("functions", "images", "mounts", "secrets")},
                **{name: [] for name in ("volumes", "requests", "uploaded", "sent", "removed")},
            }
        )

    @staticmethod
    def call(user: str, state: str) -> dict[str, Any]:
        return {"app": f"ap-{1:022d}", "user": user, "state": state, "log": ["secret of bob\n"]}

    def change_ours(self, **values: Any) -> None:
        table = self.read()
        for call in table["calls"].values():
            if call["user"] == "alice":
                call.update(values)
        self.write(table)

    def wf(self, *arguments: str) -> Result:
        return self.runner.invoke(app, list(arguments))

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(self.wf("runs", "--json").stdout)[0]
        return row


@pytest.fixture
def loopback(
    modal_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner
) -> Iterator[Loopback]:
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "uv.lock", "scripts/lock", "a.py", ".env"):
        (checkout / name).write_text(name)
    subprocess.run(["git", "init", "-q", checkout], check=True)
    described = {"stage": "stage2", "experiment": "small", "run_folder": "/outputs"}
    for name in ("backend", "service"):
        monkeypatch.setattr(f"wf_deployer.backends.modal.{name}.workspace_root", lambda: checkout)
        monkeypatch.setattr(f"wf_deployer.backends.modal.{name}._POLL_S", 0.1)
    monkeypatch.setattr("wf_deployer.commands.train.describe", lambda *_: described)
    monkeypatch.setenv("WF_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WF_MODAL_SECRETS", "huggingface:HF_TOKEN")
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-me")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-me")
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    monkeypatch.chdir(tmp_path)
    found = Loopback(tmp_path, runner)
    command = ["uv", "tool", "run", "--isolated", "-q", "--from", client.REQUIREMENT, "python", str(SERVER)]
    environment = os.environ | {"FAKE": str(tmp_path)}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    try:
        for _ in range(600):
            if (tmp_path / "port").exists():
                break
            assert server.poll() is None
            time.sleep(0.1)
        monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{(tmp_path / 'port').read_text()}")
        yield found
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(60)


@pytest.mark.slow
def test_a_job_from_its_submission_to_its_end(loopback: Loopback) -> None:
    before = loopback.read()["calls"]["fc-1"]
    done = loopback.wf("train", "-s", "2", "--cloud", "modal", "--gpu", "H100:8,H200:8", "--time", "2h")
    assert done.exit_code == 0, done.output
    job_id = done.output.split()[1]
    table = loopback.read()
    (spec,) = (function["spec"] for function in table["functions"].values())
    (ours,) = (app for app in table["apps"].values() if app["user"] == "alice")
    token = json.loads((loopback.runs / job_id / "job.json").read_text())["token"]
    assert ours["state"] == "detached"
    assert {key: ours["tags"][key] for key in ("wf-run", "wf-token")} == {"wf-run": job_id, "wf-token": token}
    choices = [ranked["function"] for ranked in spec["rankedFunctions"]]
    assert [choice["resources"]["gpuConfig"] for choice in choices] == [
        {"gpuType": "H100", "count": 8},
        {"gpuType": "H200", "count": 8},
    ]
    for choice in choices:
        assert (choice["timeoutSecs"], choice["retryPolicy"]["retries"]) == (7200, 3)
        assert choice["singleUseContainers"]
        assert choice["autoscalerSettings"] == {"maxContainers": 1}
        assert [mount["mountPath"] for mount in choice["volumeMounts"]] == ["/outputs"]
    assert table["secrets"] == {"huggingface": ["HF_TOKEN"]}
    assert table["volumes"] == ["wf-outputs"]
    sent = {name for names in table["mounts"].values() for name in names}
    assert {"/wf/pyproject.toml", "/wf/scripts/lock", "/wf/a.py"} <= {f"/{name.strip('/')}" for name in sent}
    assert not [name for name in sent if ".env" in name or "job.json" in name]
    commands = [line for lines in table["images"].values() for line in lines]
    assert any("uv sync --no-group dev --no-install-workspace" in line for line in commands)

    assert loopback.row()["state"] == "pending"
    loopback.change_ours(state="running", log=["one\n", "two\n"])
    assert loopback.row()["state"] == "running"
    assert loopback.wf("logs", job_id).stdout == "one\ntwo\n"
    assert loopback.wf("logs", "-n", "1", job_id).stdout == "two\n"
    done = loopback.wf("cancel", job_id, "--timeout", "0")
    assert done.exit_code == 1  # asked, and goes on
    assert (
        "wf-cancel" in next(app for app in loopback.read()["apps"].values() if app["user"] == "alice")["tags"]
    )
    assert "FunctionCallCancel" not in loopback.read()["requests"]
    done = loopback.wf("cancel", job_id, "--kill", "--timeout", "0")
    assert f"{job_id}: cancelled" in done.output
    assert [
        call["terminate_containers"] for call in loopback.read()["calls"].values() if call["user"] == "alice"
    ]
    assert loopback.read()["calls"]["fc-1"] == before
    assert "AppStop" not in loopback.read()["requests"]


@pytest.mark.slow
def test_ends_and_refusals(loopback: Loopback) -> None:
    arguments = ("train", "-s", "2", "--cloud", "modal")
    for wrong, told in (
        ({"unauthenticated": True}, "Modal does not take the token: Token ID is malformed"),
        ({"no_secret": True}, "Modal: Secret 'huggingface' not found"),
        ({"build_fails": "no space left"}, "no space left"),
        ({"spawn_fails": "unknown GPU"}, "Modal: unknown GPU"),
    ):
        loopback.set(**wrong)
        done = loopback.wf(*arguments)
        assert done.exit_code == 2, done.output
        assert "error: nothing was submitted: " in done.output
        assert told in done.output
        assert list(loopback.runs.iterdir()) == []
        loopback.set(**dict.fromkeys(wrong, None))
    assert loopback.wf(*arguments).exit_code == 0
    loopback.change_ours(state="timeout", reason="too long")
    row = loopback.row()
    assert (row["state"], row["problem"]) == ("failed", "FunctionTimeoutError: too long")
    loopback.change_ours(state="success", exit={"returncode": 0, "cancelled": False, "ended_s": 5.0})
    assert loopback.row()["state"] == "finished"


def described(folder: Path) -> dict[str, Any]:
    """What the evaluation says of itself."""
    model = folder / "mine.gguf"
    model.write_bytes(b"GGUF")
    words = ["--model-path", str(model)]
    return {"label": "mine.gguf", "arguments": words, "inputs": {str(model): []}, "on_gpu": False}


@pytest.mark.slow
def test_dry_runs_are_read_and_ask_nothing(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Modal's client refuses names and tags as soon as it reads an app."""
    monkeypatch.setenv("WF_MODAL_SECRETS", "wf-serve:WF_API_KEY")
    monkeypatch.setattr("wf_deployer.commands.elsewhere._described", lambda *_: described(tmp_path))
    before = loopback.read()
    for command in (
        ("train", "-s", "2", "--cloud", "modal", "--gpu", "H100:8"),
        ("serve", "--cloud", "modal", "--model", "gs://bucket/mine", "--gpu", "L4:1"),
        ("eval", "--cloud", "modal", "--model-path", "mine.gguf"),
    ):
        done = loopback.wf(*command, "--dry-run")
        assert done.exit_code == 0, done.output
        assert "# read by modal 1." in done.stdout
    assert loopback.read() == before
    assert not loopback.runs.exists()


@pytest.mark.slow
def test_a_service_from_its_deployment_to_its_end(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WF_MODAL_SECRETS", "wf-serve:WF_API_KEY")
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    before = loopback.read()["apps"][f"ap-{1:022d}"]
    model = str(tmp_path / "mine.gguf")
    machine = ("--cpus", "4", "--replicas", "0-2", "--idle", "2m")
    done = loopback.wf("serve", "--cloud", "modal", "--model", model, *machine)
    assert done.exit_code == 0, done.output
    job_id = done.stdout.split()[1]
    table = loopback.read()
    (function,) = (function["spec"] for function in table["functions"].values())
    assert function["webhookConfig"]["type"] == "WEBHOOK_TYPE_WEB_SERVER"
    assert function["webhookConfig"]["webServerPort"] == 8080
    assert function["autoscalerSettings"] == {"minContainers": 0, "maxContainers": 2, "scaledownWindow": 120}
    assert function["maxConcurrentInputs"] == 64
    (mount,) = function["volumeMounts"]
    assert (mount["mountPath"], mount["readOnly"], mount["subPath"]) == ("/model", True, job_id)
    assert table["secrets"] == {"wf-serve": ["WF_API_KEY"]}
    assert [name.strip("/") for name in table["sent"]] == [f"{job_id}/mine.gguf"]
    row = loopback.row()
    assert (row["state"], row["url"]) == ("running", f"https://wf-{job_id}.nowhere")
    done = loopback.wf("cancel", job_id)
    assert f"{job_id}: cancelled" in done.output
    table = loopback.read()
    (ours,) = (app for app in table["apps"].values() if app["user"] == "alice")
    assert (ours["state"], ours["tags"]["wf-run"]) == ("stopped", job_id)
    assert table["apps"][f"ap-{1:022d}"] == before
    assert [name.strip("/") for name in table["removed"]] == [job_id]


@pytest.mark.slow
def test_an_evaluation_from_its_submission_to_its_table(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str] = []

    def become(command: list[str], environment: dict[str, str]) -> NoReturn:
        shown.append(Path(command[-1]).read_text())
        raise SystemExit(0)

    monkeypatch.setattr("wf_deployer.commands.elsewhere._described", lambda *_: described(tmp_path))
    monkeypatch.setattr("wf_deployer.processes.become", become)
    before = loopback.read()["calls"]["fc-1"]
    done = loopback.wf("eval", "--cloud", "modal", "--model-path", "mine.gguf", "--cpus", "4")
    assert done.exit_code == 0, done.output
    job_id = done.stdout.split()[1]
    table = loopback.read()
    (function,) = (function["spec"] for function in table["functions"].values())
    assert "retries" not in function.get("retryPolicy", {})
    assert [mount["mountPath"] for mount in function["volumeMounts"]] == ["/outputs"]
    sent = {name.strip("/") for names in table["mounts"].values() for name in names}
    assert "inputs/0/mine.gguf" in sent
    assert loopback.wf("eval", "--results", job_id).exit_code == 1
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "report.json").write_text('{"model": "mine"}' + "\n" * 3)
    where = str(tmp_path / "volume" / "wf-results" / job_id)
    put = [sys.executable, "-m", "wf_stores.main", "put", str(tmp_path / "left"), where]
    subprocess.run(put, check=True, capture_output=True)
    done = loopback.wf("eval", "--results", job_id)
    assert (done.exit_code, shown) == (0, ['{"model": "mine"}\n\n\n']), done.output
    assert loopback.wf("cancel", job_id, "--kill").exit_code == 0
    assert loopback.read()["calls"]["fc-1"] == before
