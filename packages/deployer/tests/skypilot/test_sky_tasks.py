"""Names of clouds, settings, the task that a job becomes, the copy of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from wf_deployer.backends.base import Resources
from wf_deployer.backends.isolated import IsolatedProgram
from wf_deployer.backends.record import JobFolder, JobRecord
from wf_deployer.backends.sky import client, end, planning
from wf_deployer.backends.sky.infra import CLOUDS, Infra, infra_of
from wf_deployer.backends.sky.planning import plan
from wf_deployer.backends.sky.settings import Settings, read_settings
from wf_deployer.backends.sky.workdir import copy_checkout
from wf_deployer.errors import CommandRequestError
from wf_formats.errors import RequestError

NAMES = {
    "sky": "sky",
    "nebius": "sky:nebius",
    "Nebius/eu-north1": "sky:nebius/eu-north1",
    "sky:gcp/us-central1/us-central1-a": "sky:gcp/us-central1/us-central1-a",
    "k8s": "sky:kubernetes",
    "kubernetes/arn:aws:eks:us-east-1:1:cluster/mine": "sky:kubernetes/arn:aws:eks:us-east-1:1:cluster/mine",
    "sky:slurm/mine": "sky:slurm/mine",
    "slurm": None,
    "slurm/mine": None,
    "local": None,
    "moon": None,
    "nebius/": None,
    "nebius/../x y": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_clouds(name: str) -> None:
    found = infra_of(name)
    assert (None if found is None else str(found)) == NAMES[name]
    if found is not None:
        assert infra_of(str(found)) == found  # as the record of a job has it


def test_one_environment_for_the_usual_clouds() -> None:
    requirements = {
        Infra(cloud).requirement for cloud in ("", "nebius", "runpod", "gcp", "aws", "slurm", "lambda")
    }
    assert requirements == {"skypilot[aws,gcp,kubernetes,lambda,nebius,runpod,slurm]==0.14.*"}
    assert Infra("azure").requirement.startswith("skypilot[aws,azure,gcp,")


WRONG = {
    "secrets": ".wf.toml is no TOML",
    "[other]": "has one table, [sky], and 'other' is something else",
    "sky = 3": "has one table, [sky]",
    "[sky]\nsecret = []": "'secret' is unknown; [sky] has secrets, gcp_cpus",
    '[sky]\nsecrets = "A"': "secrets = 'A': write a list of names",
    '[sky]\nsecrets = ["A=b"]': "secrets: 'A=b' is no variable of yours",
    "[sky]\nsecrets = [3]": "secrets: 3 is no variable of yours",
    '[sky]\nsecrets = ["WF_JOB_TOKEN"]': "secrets: 'WF_JOB_TOKEN' is no variable of yours",
    "[sky]\ngcp_cpus = 0": "gcp_cpus = 0: write a number of cores",
    "[sky]\ngcp_cpus = true": "gcp_cpus = True: write a number of cores",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_settings_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ".wf.toml").write_text(text)
    with pytest.raises(CommandRequestError) as raised:
        read_settings(tmp_path)
    assert WRONG[text] in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_settings_that_are_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".wf.toml")
    with pytest.raises(CommandRequestError, match=r"\.wf\.toml is no regular file"):
        read_settings(tmp_path)


def test_settings(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings((), None)
    (tmp_path / ".wf.toml").write_text('[sky]\nsecrets = ["A", "B_1", "A"]\ngcp_cpus = 24\n')
    assert read_settings(tmp_path) == Settings(("A", "B_1"), 24)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "checkout"
    (root / "sub").mkdir(parents=True)
    monkeypatch.setattr(planning, "workspace_root", lambda: root)
    return root


def task_of(
    checkout: Path, cloud: str, settings: Settings | None = None, **changes: Any
) -> Mapping[str, Any]:
    """The YAML, read again."""
    record = JobRecord(
        id="20260102-030405-stage2-1a2b",
        kind="train",
        stage="stage2",
        experiment="e",
        command=[sys.executable, "-m", "wrinklefree.train", "-s", "2"],
        cwd=str(checkout / "sub"),
        upload="gs://bucket/runs",
    )
    infra = infra_of(cloud)
    assert infra is not None
    task = plan(infra, replace(record, **changes), checkout / "w", settings or Settings())
    values: Mapping[str, Any] = yaml.safe_load(task.to_yaml())
    return values


def test_the_task_of_a_cluster(checkout: Path) -> None:
    task = task_of(
        checkout,
        "runpod",
        Settings(secrets=("WANDB_API_KEY",)),
        resources=Resources("H100:8", num_nodes=2, cpus=64),
        token="0" * 32,
    )
    assert task["name"] == "wf-20260102-030405-stage2-1a2b"
    assert task["num_nodes"] == 2
    assert task["workdir"] == str(checkout / "w")
    assert task["resources"] == {
        "infra": "runpod",
        "accelerators": "H100:8",
        "cpus": "64+",
        "autostop": {"idle_minutes": 10, "down": True},
        "labels": {"wf-job": "20260102-030405-stage2-1a2b"},
    }
    assert task["envs"] == {"WF_JOB_TOKEN": "0" * 32, "WF_JOB_ID": "20260102-030405-stage2-1a2b"}
    assert task["secrets"] == {"WANDB_API_KEY": None}
    assert "gs://bucket/runs/wf-jobs/20260102-030405-stage2-1a2b" in task["run"]
    assert "cd sub ||" in task["run"]
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in task["run"]
    assert sys.executable not in task["run"]


def test_the_task_of_a_managed_job(checkout: Path) -> None:
    resources = task_of(checkout, "nebius", resources=Resources("H100:8", spot=True))["resources"]
    assert resources["use_spot"] is True
    assert resources["job_recovery"] == {"strategy": "EAGER_NEXT_REGION", "recover_on_exit_codes": [143]}
    assert "autostop" not in resources


def test_slurm_has_no_autostop_and_may_share_disks(checkout: Path) -> None:
    task = task_of(checkout, "sky:slurm/mine", upload="/shared/it's", start_from="/shared/start")
    assert task["resources"].keys() == {"infra", "labels"}
    assert task["resources"]["infra"] == "slurm/mine"
    assert "scancel" in task["run"]
    assert r"training.checkpoint.upload=" in task["run"]
    task = task_of(checkout, "sky:slurm/mine", start_from="models/mine")  # elsewhere it runs in a copy
    assert f"training.start_from='{checkout}/sub/models/mine'" in task["run"].replace("""'"'"'""", "'")


def test_skypilot_may_choose_among_rented_clouds(checkout: Path) -> None:
    def clouds(settings: Settings, resources: Resources) -> set[str]:
        return {
            place["infra"]
            for place in task_of(checkout, "sky", settings, resources=resources)["resources"]["any_of"]
        }

    rented = set(CLOUDS) - {"slurm", "kubernetes", "ssh", "gcp"}
    gpus = Resources("H100:8")
    assert clouds(Settings(gcp_cpus=24), gpus) == rented
    assert clouds(Settings(), replace(gpus, allow_gcp_gpu=True)) == rented | {"gcp"}
    assert clouds(Settings(), Resources()) == rented
    assert clouds(Settings(gcp_cpus=24), Resources()) == rented | {"gcp"}


GCP = {
    (None, 1): "n2-standard-16",
    (None, 2): "n2-standard-8",
    (4, 1): "n2-standard-4",
    (16, 1): "n2-standard-16",
    (32, 1): "--cpus 32: gcp_cpus = 24 in .wf.toml allows 2, 4, 8, 16; give one of them",
    (6, 1): "--cpus 6: gcp_cpus = 24 in .wf.toml allows 2, 4, 8, 16; give one of them",
    (16, 2): "--cpus 16: gcp_cpus = 24 in .wf.toml allows 2, 4, 8 on each of 2 nodes; give one of them",
    (None, 13): "gcp_cpus = 24 in .wf.toml leaves fewer than 2 cores on each of 13 nodes; raise it",
}


@pytest.mark.parametrize(("cpus", "num_nodes"), GCP)
def test_cpus_on_gcp_stay_within_the_quota(checkout: Path, cpus: int | None, num_nodes: int) -> None:
    expected, resources = GCP[cpus, num_nodes], Resources(cpus=cpus, num_nodes=num_nodes)
    if expected.startswith("n2"):
        asked = task_of(checkout, "gcp/us-central1", Settings(gcp_cpus=24), resources=resources)["resources"]
        assert (asked["infra"], asked["instance_type"], "cpus" in asked) == (
            "gcp/us-central1",
            expected,
            False,
        )
        return
    with pytest.raises(CommandRequestError) as raised:
        task_of(checkout, "gcp", Settings(gcp_cpus=24), resources=resources)
    assert str(raised.value) == expected


def test_gpus_on_gcp_on_request(checkout: Path) -> None:
    asked = task_of(checkout, "gcp", resources=Resources("A100:8", cpus=96, allow_gcp_gpu=True))["resources"]
    assert (asked["accelerators"], asked["cpus"], "instance_type" in asked) == ("A100:8", "96+", False)


def test_machines_get_what_git_lists_without_secrets_and_results(tmp_path: Path) -> None:
    root = tmp_path / "root"
    subprocess.run(["git", "init", "-q", root], check=True)
    for name in ("a.py", "sub/b.py", ".env", "sub/id_rsa", "outputs/x", "ignored/y", "odd \n name"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("ignored/\nforced\n")
    (root / "forced").write_text("listed all the same")
    subprocess.run(["git", "-C", root, "add", "-f", "forced"], check=True)
    (root / "a.py").chmod(0o755)
    (root / "link").symlink_to("a.py")
    os.mkfifo(root / "pipe")
    copy_checkout(root, tmp_path / "copy")
    found = {
        str(path.relative_to(tmp_path / "copy"))
        for path in (tmp_path / "copy").rglob("*")
        if not path.is_dir()
    }
    assert found == {"a.py", "sub/b.py", ".gitignore", "forced", "link", "odd \n name", ".skyignore"}
    assert os.access(tmp_path / "copy" / "a.py", os.X_OK)
    assert os.readlink(tmp_path / "copy" / "link") == "a.py"


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not in a git repository"):
        copy_checkout(tmp_path, tmp_path / "copy")


def test_the_end_is_fetched_from_a_real_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WF_RUNS_DIR", str(tmp_path / "runs"))
    upload = str(tmp_path / "store")
    job = JobFolder.create(JobRecord("j", "train", "s", "e", [], "/", upload=upload))
    missing = end.fetch_end(job)
    assert missing is not None
    assert not missing.is_missing  # a disk that is not mounted says nothing
    (tmp_path / "store").mkdir()
    (job.folder / "end").mkdir()  # of a look that was killed
    (job.folder / "end" / "log.txt").write_text("half")
    missing = end.fetch_end(job)
    assert missing is not None
    assert missing.is_missing
    left = tmp_path / "left"
    left.mkdir()
    (left / "exit.json").write_text(json.dumps({"returncode": 3, "cancelled": False, "ended_s": 5}))
    (left / "log.txt").write_text("what it said\n")
    put = [sys.executable, "-m", "wf_stores.main", "put", str(left), end.end_url(upload, "j")]
    subprocess.run(put, check=True, capture_output=True)
    assert end.fetch_end(job) is None
    assert job.exit is not None
    assert job.exit.returncode == 3
    assert job.log.read_text() == "what it said\n"
    assert not (job.folder / "end").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("cloud", "spot"), [("sky", False), ("nebius", True), ("sky:slurm", False)])
def test_skypilots_own_schemas_take_the_task(checkout: Path, cloud: str, spot: bool) -> None:
    """Takes SkyPilot from the registry, into uv's cache."""
    infra = infra_of(cloud)
    assert infra is not None
    resources = Resources("H100:8", num_nodes=2, spot=spot, allow_gcp_gpu=True)
    record = JobRecord(
        "j", "train", "s", "e", ["true"], str(checkout), upload="gs://b/x", resources=resources
    )
    text = plan(infra, record, checkout / "w", Settings()).to_yaml()
    program = client.SkyClient(infra)
    assert program.check_task(text).startswith("0.14.")
    with pytest.raises(client.SkyError, match="num_node"):
        program.check_task(text.replace("num_nodes", "num_node"))
    assert isinstance(program._program, IsolatedProgram)
