"""`wf serve --cloud nebius` and what follows, beside jobs and a service of another user (fake_sky.py)."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
import yaml
from click.testing import Result
from fake_sky import BOB, ME, status
from sky_table import Sky

from wf_deployer.backends.sky import client

URL = "gs://bucket/exports/mine"


@pytest.fixture
def served(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> Sky:
    monkeypatch.setenv("WF_API_KEY", "hunter2")
    (sky.folder / "mine.gguf").write_bytes(b"GGUF")
    (sky.folder / "export").mkdir()
    (sky.folder / "export" / "config.json").write_text("{}")
    return sky


def serve(sky: Sky, *arguments: str, model: str = URL, cloud: str = "nebius") -> Result:
    return sky.wf("serve", "--cloud", cloud, "--model", model, *arguments)


def started(sky: Sky, *arguments: str, **given: str) -> str:
    done = serve(sky, *arguments, **given)
    assert done.exit_code == 0, done.output
    return done.stdout.split()[1]


def task_of(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    task: dict[str, Any] = yaml.safe_load(done.stdout)
    return task


def test_a_dry_run_shows_a_service_with_its_probe_and_its_key_by_name(served: Sky) -> None:
    done = serve(served, "--cpus", "16", "--replicas", "2", "--dry-run", "--", "--context", "8192")
    task = task_of(done)
    assert done.stdout.startswith("# valid to SkyPilot 0.14.1; nothing was launched\n")
    assert task["service"] == {
        "readiness_probe": {"path": "/health", "initial_delay_seconds": 3600},
        "replica_policy": {"min_replicas": 2},
        "ports": 8080,
    }
    assert task["secrets"] == {"WF_API_KEY": None}
    assert task["resources"]["cpus"] == "16+"
    assert "autostop" not in task["resources"]
    assert task["run"].endswith(
        'exec "$python" -m wrinklefree_inference serve --model "$model" --host 0.0.0.0 --port 8080 '
        "--context 8192\n"
    )
    assert f'"$python" -m wf_stores.main get {URL} "$model" || exit' in task["run"]
    assert "hunter2" not in done.output
    assert not served.fake.calls
    assert not served.runs.exists()


def test_replicas_by_demand(served: Sky) -> None:
    task = task_of(serve(served, "--replicas", "0-4", "--qps", "2.5", "--idle", "15m", "--dry-run"))
    assert task["service"]["replica_policy"] == {
        "min_replicas": 0,
        "max_replicas": 4,
        "target_qps_per_replica": 2.5,
        "downscale_delay_seconds": 900,
    }


HUB = {
    "hub:me/mine": '"${python%/*}/hf" download me/mine --local-dir "$model" || exit',
    "hub:me/mine/a/b.gguf@v1": 'hf" download me/mine a/b.gguf --revision v1 --local-dir "$model" || exit',
}


@pytest.mark.parametrize("model", HUB)
def test_a_model_of_the_hub(served: Sky, model: str) -> None:
    task = task_of(serve(served, "--dry-run", model=model))
    assert HUB[model] in task["run"]
    assert 'model="$root/wf-fetched-model"' in task["run"]


@pytest.mark.parametrize(
    ("model", "sent"), [("mine.gguf", "wf-model/mine.gguf"), ("export", "wf-model/config.json")]
)
def test_a_model_of_this_machine_is_sent_along(served: Sky, model: str, sent: str) -> None:
    copied: list[str] = []

    def look() -> None:
        (folder,) = served.runs.glob("*/workdir")
        copied.extend(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    served.fake.on_launch = look
    job_id = started(served, model=str(served.folder / model))
    assert sorted(copied) == [".skyignore", "code.py", sent]
    assert 'model="$root/wf-model"' in (served.runs / job_id / "task.yaml").read_text()
    assert not (served.runs / job_id / "workdir").exists()
    assert (served.folder / model).exists()


REFUSED = {
    ("--model", ""): "--model is empty: a GGUF file, an exported folder, gs://, s3:// or hub:",
    ("--model", "none.gguf"): "--model none.gguf: there is no such file or folder here",
    ("--model", "."): "--model .: the folder has neither config.json nor a GGUF file",
    ("--model", "code.py"): "--model code.py: it is no GGUF file and no exported folder",
    ("--model", "hub:mine"): "--model hub:mine: write hub:OWNER/NAME",
    ("--model", "https://x/y"): "--model https://x/y: a machine elsewhere fetches gs://, s3:// and hub:",
    ("--model", "s3:/b/x"): "--model s3:/b/x: a machine elsewhere fetches",
    ("--replicas", "many"): "--replicas 'many': give a number (2), or two of them (0-4)",
    ("--replicas", "4-2"): "--replicas 4-2: the second number is at least 1 and the first",
    ("--replicas", "0"): "--replicas 0: the second number is at least 1",
    ("--replicas", "0-4"): "--replicas 0-4: give --qps",
    ("--qps", "2"): "--qps: 1 replicas are always 1; leave it out, or give --replicas 0-1",
    ("--idle", "soon"): "--idle 'soon' is no time",
    ("--gpu", "8"): "--gpu 8: SkyPilot rents GPUs by kind",
    ("--cloud", "sky:slurm"): "--cloud sky:slurm: Slurm has no ports for servers",
    ("--cloud", "slurm"): "--cloud 'slurm' serves nothing; there is modal, sky",
    ("--cloud", "moon"): "--cloud 'moon' serves nothing",
    ("--", "--api-key", "x"): "--api-key: leave it out; the key is WF_API_KEY, a secret",
    ("--", "--port=1"): "--port: leave it out; it is given there",
    ("--", "--adapter", "/x/a.gguf"): "--adapter /x/a.gguf: /x/a.gguf is a path of this",
    ("--", "--token=abcdef"): "--token=***: whoever runs the machines stores this",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_requests_are_one_line_and_launch_nothing(served: Sky, arguments: tuple[str, ...]) -> None:
    done = serve(served, *arguments)
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"error: {REFUSED[arguments]}")
    assert len(done.output.splitlines()) == 1
    assert "abcdef" not in done.output
    assert not served.fake.calls
    assert not served.runs.exists()


def test_without_a_key_nothing_is_launched(served: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WF_API_KEY")
    done = serve(served)
    assert (done.exit_code, done.output) == (
        2,
        "error: WF_API_KEY: export the key that clients of the server have to give\n",
    )
    assert not served.fake.calls


def test_a_service_from_its_launch_to_its_end_beside_those_of_others(served: Sky) -> None:
    before = served.fake.states(BOB)
    assert "service wf-serve" in before
    job_id = started(served)
    name = f"wf-{job_id}"
    assert served.fake.secrets == {"WF_API_KEY": "hunter2"}
    submitted = served.record(job_id)
    assert (submitted["id"], submitted["name"], submitted["user"]) == ("h17", name, ME)
    (row,) = served.rows()
    assert (row["state"], row["kind"], row["experiment"]) == ("running", "serve", "mine")
    assert row["url"] == served.fake.services[name]["endpoint"]
    assert row["url"] in served.wf("runs").stdout
    assert served.wf("logs", job_id).stdout == f"{name} 1 one\n{name} 1 two\n"
    assert served.wf("logs", "-n", "1", job_id).stdout == f"{name} 1 two\n"
    done = served.wf("cancel", job_id)
    assert (done.exit_code, done.stdout) == (0, f"{job_id}: cancelled\n")
    assert served.rows()[0]["state"] == "cancelled"
    assert served.wf("cancel", job_id).exit_code == 1
    assert served.fake.calls == ["serve.up", f"serve.down ['{name}']"]
    assert served.fake.states(BOB) == before
    files = [path for path in served.runs.rglob("*") if path.is_file()]
    assert not [path for path in files if "hunter2" in path.read_text()]


DIFFERENT: dict[str, tuple[str, Any, str]] = {
    "user": ("user_hash", BOB, f"its user is '{BOB}', not '{ME}'"),
    "id": ("hash", "another", "its id is 'another', not 'h17'"),
    "no token": ("yaml_content", None, "it carries no token"),
    "token": ("yaml_content", f"envs: {{WF_JOB_TOKEN: '{'0' * 32}'}}", "its token is another"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_cancel_refuses_what_is_not_the_service_that_was_launched(served: Sky, what: str) -> None:
    key, value, told = DIFFERENT[what]
    job_id = started(served)
    served.fake.services[f"wf-{job_id}"][key] = value
    before = served.fake.states(BOB), served.fake.states(ME)
    done = served.wf("cancel", job_id, "--kill", "--timeout", "0")
    assert done.exit_code == 1
    assert "refused: job" in done.output
    assert told in done.output
    assert served.fake.calls == ["serve.up"]
    assert (served.fake.states(BOB), served.fake.states(ME)) == before
    assert served.wf("logs", job_id).exit_code == 1
    (row,) = served.rows()
    assert (row["state"], row["url"]) == ("lost", None)


STATES = {
    "CONTROLLER_INIT": "starting",
    "REPLICA_INIT": "starting",
    "NO_REPLICA": "running",
    "FAILED": "failed",
    "WHATEVER": "unknown",
}


def test_states(served: Sky) -> None:
    job_id = started(served)
    for state, shown in STATES.items():
        served.fake.services[f"wf-{job_id}"]["status"] = status(state)
        (row,) = served.rows()
        assert row["state"] == shown
        assert state in row["problem"]
        assert not (served.runs / job_id / "exit.json").exists()


def test_a_server_that_does_not_answer_is_no_lost_service(
    served: Sky, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = started(served)

    def down(*_: object) -> None:
        raise ConnectionError("API server unreachable")

    served.fake.on_status = down
    assert served.rows()[0]["state"] == "unknown"
    assert served.wf("cancel", job_id).exit_code == 1
    served.fake.on_status = None
    with monkeypatch.context() as patch:
        patch.setattr(served.fake, "serve_down", down)
        assert served.wf("cancel", job_id).exit_code == 1
    assert not (served.runs / job_id / "cancel.json").exists()
    assert served.rows()[0]["state"] == "running"


def test_a_failed_launch_leaves_nothing_and_a_lost_answer_is_found_again(served: Sky) -> None:
    def fail() -> None:
        (name,) = set(served.fake.services) - {"wf-serve"}
        if is_gone:
            del served.fake.services[name]
        raise RuntimeError("no machine anywhere")

    served.fake.on_launch, is_gone = fail, True
    done = serve(served)
    assert done.exit_code == 2
    assert done.output.endswith("error: nothing was launched: SkyPilot: no machine anywhere\n")
    assert not list(served.runs.iterdir())
    is_gone = False
    assert served.record(started(served))["id"] == "h18"


def test_ctrl_c_and_a_killed_launch_leave_what_wf_cancel_ends(served: Sky) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    served.fake.on_launch = stop
    done = serve(served)
    assert done.exit_code == 130
    (job_id,) = os.listdir(served.runs)
    assert f"`wf cancel {job_id}` ends it" in done.output
    served.fake.on_launch = None
    assert served.rows()[0]["state"] == "running"
    assert not (served.runs / job_id / "workdir").exists()
    assert served.wf("cancel", job_id).exit_code == 0
    served.fake.services.clear()
    (served.runs / job_id / "submitted.json").rename(served.runs / "kept")
    path = served.runs / job_id / "job.json"
    (path.parent / "exit.json").unlink()
    (path.parent / "cancel.json").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_s": time.time() - 1000}))
    (row,) = served.rows()
    assert (row["state"], row["problem"]) == ("lost", "SkyServe has no such service (any more)")
    assert "it may appear in some minutes: `wf runs` shows it then" in served.wf("cancel", job_id).output
    (served.runs / "kept").rename(served.runs / job_id / "submitted.json")
    assert "it may appear" not in served.wf("cancel", job_id).output


@pytest.mark.parametrize(
    "service", [{}, 5, {"model": "x"}, {"model": 3, "min_replicas": 1, "max_replicas": 1}]
)
def test_a_damaged_record_is_told(served: Sky, service: Any) -> None:
    job_id = started(served)
    path = served.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"service": service}))
    (row,) = served.rows()
    assert row["state"] == "damaged"
    assert served.wf("cancel", job_id).exit_code == 1
    assert f"wf-{job_id}" in served.fake.services


@pytest.mark.slow
def test_skypilots_own_schemas_take_the_service(served: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes SkyPilot from the registry, into uv's cache."""
    text = serve(served, "--cpus", "4", "--replicas", "0-4", "--qps", "2", "--dry-run").stdout
    monkeypatch.undo()
    from wf_deployer.backends.sky.infra import Infra
    from wf_deployer.backends.sky.service_client import SkyServeClient

    monkeypatch.setenv("WF_API_KEY", "x")
    program = SkyServeClient(Infra("nebius"))
    assert program.check_task(text).startswith("0.14.")
    for wrong in (text.replace("min_replicas", "least"), text.replace("initial_delay_seconds", "delay")):
        with pytest.raises(client.SkyError, match="Invalid service YAML"):
            program.check_task(wrong)
