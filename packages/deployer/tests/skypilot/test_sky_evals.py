"""`wf eval --cloud nebius` and `--results`, beside jobs of another user (fake_sky.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from click.testing import Result
from fake_sky import BOB, status
from sky_table import Sky

from wf_deployer.backends.base import JobSpec, Resources
from wf_deployer.backends.record import JobRecord
from wf_deployer.backends.sky import client
from wf_deployer.backends.sky.infra import infra_of
from wf_deployer.backends.sky.planning import plan
from wf_deployer.backends.sky.settings import Settings

OUTPUT = ("--output", "gs://bucket/evals")


@pytest.fixture
def evaluated(
    sky: Sky, describe_evaluation: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> Sky:
    model = sky.folder / "mine"
    model.mkdir()
    for name in ("config.json", ".env"):
        (model / name).write_text("{}")

    describe_evaluation(str(model), "hub:me/texts")
    get = "wf_deployer.backends.sky.backend.get_upload"
    monkeypatch.setattr(get, lambda url, there: sky.get(url, there, 60))
    return sky


def evaluate(sky: Sky, *arguments: str, cloud: str = "nebius") -> Result:
    return sky.wf("eval", "--cloud", cloud, "--model-path", "mine", *OUTPUT, *arguments)


def started(sky: Sky, *arguments: str, cloud: str = "nebius") -> str:
    done = evaluate(sky, *arguments, cloud=cloud)
    assert done.exit_code == 0, done.output
    return done.stdout.split("started ")[1].split()[0]


def test_the_task_evaluates_what_was_sent_and_puts_results_and_end_into_the_store(evaluated: Sky) -> None:
    copied: list[str] = []

    def look() -> None:
        (folder,) = evaluated.runs.glob("*/workdir")
        copied.extend(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    evaluated.fake.on_launch = look
    job_id = started(evaluated, "--gpu", "L4:1", "--cpus", "8")
    assert sorted(copied) == [".skyignore", "code.py", "wf-inputs/0/mine/config.json"]
    task = yaml.safe_load((evaluated.runs / job_id / "task.yaml").read_text())
    assert (task["num_nodes"], task["resources"]["accelerators"], task["resources"]["cpus"]) == (
        1,
        "L4:1",
        "8+",
    )
    assert '--model-path "$root/wf-inputs"/0/mine --text "$fetched0" || exit' in task["run"]
    assert f'put "$scratch/results" gs://bucket/evals/{job_id}\n' in task["run"]
    assert f'put "$end" gs://bucket/evals/wf-jobs/{job_id} ' in task["run"]
    assert sys.executable not in task["run"]
    assert evaluated.record(job_id)["name"] == f"wf-{job_id}"
    assert not (evaluated.runs / job_id / "workdir").exists()


@pytest.mark.parametrize("spot", [(), ("--spot",)])
def test_from_its_start_to_its_table_beside_those_of_others(
    evaluated: Sky, spot: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []

    def become(command: list[str], environment: dict[str, str]) -> NoReturn:
        shown.append(command)
        raise SystemExit(0)

    monkeypatch.setattr("wf_deployer.processes.become", become)
    before = evaluated.fake.states(BOB)
    job_id = started(evaluated, *spot)
    (row,) = evaluated.rows()
    assert (row["state"], row["kind"], row["experiment"]) == ("running", "eval", "mine")
    told = evaluated.wf("eval", "--results", job_id)
    assert (told.exit_code, "is running and has left no results" in told.output) == (1, True)
    evaluated.store_is_missing, evaluated.store_reason = False, "gs://bucket did not answer"
    told = evaluated.wf("eval", "--results", job_id)
    assert (
        told.output == f"error: the results of {job_id} cannot be fetched now: gs://bucket did not answer\n"
    )
    evaluated.stored[f"gs://bucket/evals/{job_id}"] = {}
    assert evaluated.wf("eval", "--results", job_id).exit_code == 0
    report = evaluated.runs / job_id / "results" / "report.json"
    assert shown == [[sys.executable, "-m", "wrinklefree_eval.show", str(report)]]
    assert evaluated.fake.states(BOB) == before


def test_its_end_is_found_beside_its_results(evaluated: Sky) -> None:
    job_id = started(evaluated)
    evaluated.fake.queues[f"wf-{job_id}"][0].status = status("FAILED")
    evaluated.stored[f"gs://bucket/evals/wf-jobs/{job_id}"] = {
        "returncode": 1,
        "cancelled": False,
        "ended_s": 5,
    }
    (row,) = evaluated.rows()
    assert (row["state"], row["exit_code"]) == ("failed", 1)


def test_a_path_is_a_place_where_machines_see_it(evaluated: Sky) -> None:
    done = evaluate(evaluated, "--output", "evals", "--dry-run", cloud="sky:slurm")
    assert done.exit_code == 0, done.output
    assert f'put "$scratch/results" {Path.cwd()}/evals/2' in done.stdout


def test_a_bucket_that_does_not_answer_is_told_before_anything_is_launched(evaluated: Sky) -> None:
    evaluated.store_is_missing, evaluated.store_reason = False, "there is no bucket"
    for done in (evaluate(evaluated), evaluated.train()):
        assert (done.exit_code, done.output) == (2, "error: nothing was submitted: there is no bucket\n")
    assert not evaluated.fake.calls
    assert not evaluated.runs.exists()


def test_gpus_on_gcp_on_request(evaluated: Sky) -> None:
    done = evaluate(evaluated, "--gpu", "A100:1", cloud="gcp")
    assert (done.exit_code, "only with --allow-gcp-gpu" in done.output) == (2, True)
    done = evaluate(evaluated, "--gpu", "A100:1", "--allow-gcp-gpu", "--dry-run", cloud="gcp")
    assert done.exit_code == 0, done.output
    assert not evaluated.fake.calls


@pytest.mark.slow
@pytest.mark.parametrize(("cloud", "spot"), [("sky", False), ("nebius", True), ("sky:slurm", False)])
def test_skypilots_own_schemas_take_the_task(cloud: str, spot: bool) -> None:
    infra = infra_of(cloud)
    assert infra is not None
    spec = JobSpec(
        "j",
        "eval",
        "eval",
        "mine",
        [sys.executable, "-m", "wrinklefree_eval.evaluate", "--model-path", "/x/mine.gguf"],
        "/",
        upload="gs://b/x",
        resources=Resources("H100:1", spot=spot, allow_gcp_gpu=True),
        inputs={"/x/mine.gguf": []},
    )
    task = plan(infra, JobRecord(**vars(spec)), Path("/w"), Settings()).to_yaml()
    assert client.SkyClient(infra).check_task(task).startswith("0.14.")
