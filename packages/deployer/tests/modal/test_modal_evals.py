"""`wf eval --cloud modal` and `--results`, beside calls of another user (fake_client.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import Result
from fake_client import load_app
from modal_table import Wf

VOLUME = "wf-outputs"


@pytest.fixture
def evaluated(wf: Wf, tmp_path: Path, describe_evaluation: Callable[[str, str], None]) -> Wf:
    model = tmp_path / "mine.gguf"
    model.write_bytes(b"GGUF")

    describe_evaluation(str(model), "gs://b/wiki")
    return wf


def evaluate(wf: Wf, *arguments: str) -> Result:
    return wf("eval", "--cloud", "modal", "--model-path", "mine.gguf", *arguments)


def started(wf: Wf, *arguments: str) -> str:
    done = evaluate(wf, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout.split()[1]


def test_the_app_runs_the_evaluation_once_and_sends_what_is_here(
    evaluated: Wf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wf_deployer.backends.modal import client

    sent: list[str] = []
    real = client.submit

    def look(app: Path, record: Path) -> None:
        sent.extend(str(path.relative_to(app.parent)) for path in app.parent.glob("inputs/**/*.*"))
        real(app, record)

    monkeypatch.setattr(client, "submit", look)
    job_id = started(evaluated, "--gpu", "L4", "--time", "2h")
    assert sent == ["inputs/0/mine.gguf"]
    assert not (evaluated.runs / job_id / "inputs").exists()
    values = evaluated.values(job_id)
    assert (values["gpu"], values["retries"], values["several"]) == (["L4:1"], 0, True)
    assert values["run"] == f"wf-results/{job_id}"
    (shell, _, script) = values["command"]
    assert shell == "bash"
    assert script.startswith("python=/wf/.venv/bin/python\n")
    assert "-m wrinklefree_eval.evaluate --model-path /inputs/0/mine.gguf --text " in script
    assert script.endswith(f' put "$scratch/results" /outputs/wf-results/{job_id}\n')
    module = load_app(evaluated.runs / job_id / "app.py", evaluated.modal.module())
    name, args, _ = module.train.options["image"].steps[-1]
    assert (name, args[1]) == ("add_local_dir", "/inputs")


def test_two_evaluations_of_one_model_go_on_beside_each_other(evaluated: Wf) -> None:
    assert started(evaluated) != started(evaluated)
    assert evaluated.modal.asked.count("spawn") == 2


def leave_results(wf: Wf, job_id: str, folder: Path) -> None:
    """As the job's script puts them into the volume."""
    (folder / "left").mkdir()
    (folder / "left" / "report.json").write_text("{}")
    put = [
        sys.executable,
        "-m",
        "wf_stores.main",
        "put",
        str(folder / "left"),
        str(folder / "volume" / job_id),
    ]
    subprocess.run(put, check=True, capture_output=True)
    files = wf.modal.volumes.setdefault(VOLUME, {"/wf-results/other/COMPLETE": b"bob's"})
    for path in (folder / "volume").rglob("*"):
        if path.is_file():
            files[f"/wf-results/{path.relative_to(folder / 'volume')}"] = path.read_bytes()


def test_results_are_fetched_from_the_volume_that_they_went_to(
    evaluated: Wf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []

    def become(command: list[str], environment: dict[str, str]) -> NoReturn:
        shown.append(command)
        raise SystemExit(0)

    monkeypatch.setattr("wf_deployer.processes.become", become)
    before = evaluated.modal.foreign()
    job_id = started(evaluated)
    monkeypatch.setenv("WF_MODAL_VOLUME", "another")  # later
    done = evaluated("eval", "--results", job_id)
    assert (done.exit_code, shown) == (1, [])
    assert f"{job_id} is running and has left no results" in done.output
    leave_results(evaluated, job_id, tmp_path)
    complete = evaluated.modal.volumes[VOLUME].pop(f"/wf-results/{job_id}/COMPLETE")
    assert evaluated("eval", "--results", job_id).exit_code == 1  # not all of it is there yet
    evaluated.modal.volumes[VOLUME][f"/wf-results/{job_id}/COMPLETE"] = complete
    assert evaluated("eval", "--results", job_id).exit_code == 0
    folder = evaluated.runs / job_id / "results"
    assert shown == [[sys.executable, "-m", "wrinklefree_eval.show", str(folder / "report.json")]]
    assert [path.name for path in folder.iterdir()] == ["report.json"]
    assert evaluated.modal.foreign() == before


def test_results_may_go_to_a_store_but_not_to_a_disk(evaluated: Wf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wf_deployer.backends.submitting.require_place", lambda *_: None)
    job_id = started(evaluated, "--output", "gs://b/evals")
    (_, _, script) = evaluated.values(job_id)["command"]
    assert script.endswith(f'"$scratch/results" gs://b/evals/{job_id}\n')
    done = evaluate(evaluated, "--output", "evals")
    assert done.exit_code == 2
    assert "--output evals is a disk of this machine" in done.output


def test_it_is_cancelled_by_its_record_alone(evaluated: Wf) -> None:
    job_id = started(evaluated)
    row = evaluated.row()
    assert (row["state"], row["kind"], row["experiment"]) == ("running", "eval", "mine.gguf")
    path = evaluated.runs / job_id / "submitted.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"user": "bob"}))
    refused = evaluated("cancel", job_id)
    assert (refused.exit_code, "refused" in refused.output) == (1, True)
    path.write_text(kept)
    assert evaluated("cancel", job_id).stdout == f"{job_id}: cancelled\n"


def test_a_dry_run_shows_the_app_and_asks_modal_nothing(evaluated: Wf) -> None:
    done = evaluate(evaluated, "--dry-run")
    assert done.exit_code == 0, done.output
    compile(done.stdout, "app.py", "exec")
    assert "wrinklefree_eval.evaluate" in done.stdout
    assert not evaluated.modal.asked
    assert not evaluated.runs.exists()
