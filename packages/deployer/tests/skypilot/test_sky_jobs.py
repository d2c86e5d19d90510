"""`wf train --cloud nebius` and what follows, on a table of clusters and jobs of two users (fake_sky.py)."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_sky import BOB, ME, NOW, FakeSky, InProcess, status
from sky_table import Sky

from wf_deployer.backends.sky import launcher
from wf_deployer.errors import CommandRequestError

SPOT = ("--spot",)


def test_a_job_gets_a_cluster_of_its_own(sky: Sky) -> None:
    copied: list[str] = []

    def look() -> None:
        (folder,) = sky.runs.glob("*/workdir")
        copied.extend(path.name for path in folder.iterdir())

    sky.fake.on_launch = look
    job_id = sky.submitted("--gpu", "H100:8", "--num-nodes", "2")
    assert sorted(copied) == [".skyignore", "code.py"]
    record = sky.record(job_id, "job.json")
    assert record["cloud"] == "sky:nebius"
    assert (record["run_folder"], record["upload"]) == (None, "gs://bucket/runs")
    assert sky.record(job_id) == {
        "id": "c17",
        "name": f"wf-{job_id}",
        "user": ME,
        "endpoint": "http://127.0.0.1:46580",
        "submitted_s": NOW,
        "token": record["token"],
        "restarts": 0,
    }
    assert sky.fake.calls == ["launch"]
    assert not (sky.runs / job_id / "workdir").exists()
    (row,) = sky.rows()
    assert (row["state"], row["cloud"]) == ("running", "sky:nebius")


def test_spot_is_a_managed_job(sky: Sky) -> None:
    job_id = sky.submitted("--spot", "--gpu", "H100:8")
    assert sky.fake.calls == ["jobs.launch"]
    submitted = sky.record(job_id)
    assert (submitted["id"], submitted["name"], submitted["user"]) == ("17", f"wf-{job_id}", ME)
    assert sky.fake.jobs[17].job_name == f"wf-{job_id}"
    task = yaml.safe_load(sky.fake.jobs[17].user_yaml)
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [143]
    assert "autostop" not in task["resources"]


def test_where_results_are_is_said(sky: Sky) -> None:
    assert "  results  gs://bucket/runs\n" in sky.train().stdout


@pytest.mark.parametrize("spot", [(), SPOT])
def test_a_dry_run_launches_nothing(sky: Sky, spot: tuple[str, ...]) -> None:
    done = sky.train("--dry-run", "--gpu", "H100:8", *spot)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# valid to SkyPilot 0.14.1; nothing was launched\nname: wf-")
    task = yaml.safe_load(done.stdout)
    assert task["resources"]["infra"] == "nebius"
    assert task["resources"]["accelerators"] == "H100:8"
    assert not sky.fake.calls
    assert not sky.runs.exists()


def test_a_dry_run_without_skypilot_says_so(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: object, request: Any, **options: Any) -> Any:
        raise CommandRequestError("uv cannot give skypilot: no network")

    monkeypatch.setattr(InProcess, "ask", missing)
    done = sky.train("--dry-run")
    assert done.exit_code == 0
    assert done.stdout.startswith(
        "# not checked by SkyPilot: uv cannot give skypilot: no network; nothing was"
    )
    done = sky.train()
    assert (done.exit_code, done.output) == (2, "error: uv cannot give skypilot: no network\n")
    assert not sky.runs.exists()


def test_what_skypilots_schemas_refuse_is_refused(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeSky, config: Any, secrets_overrides: Any = None) -> Any:
        raise ValueError("Invalid task YAML: 'x'")

    monkeypatch.setattr(FakeSky, "task", refuse)
    for option in ((), ("--dry-run",)):
        done = sky.train(*option)
        assert (done.exit_code, done.output) == (2, "error: SkyPilot: Invalid task YAML: 'x'\n")
    assert not sky.runs.exists()


REFUSED = {
    ("--gpu", "8"): "--gpu 8: SkyPilot rents GPUs by kind; write for example H100:8",
    ("--gpu", "H100:0"): "--gpu 'H100:0' is no GPU",
    ("--gpu", "H100:8,H200:8"): "--gpu H100:8,H200:8: SkyPilot is asked for one kind",
    ("--time", "8h"): "--time: SkyPilot's jobs have no limit",
    ("--cloud", "gcp", "--gpu", "A100:8"): "--gpu A100:8: GPUs on GCP are rented only with --allow-gcp-gpu",
    ("--cloud", "gcp"): "--cloud gcp: say how many cores of n2-standard your quota allows: gcp_cpus = 24",
    ("--cloud", "kubernetes", "--spot"): "--spot: sky:kubernetes has no such machines",
    ("--cloud", "sky:slurm", "--spot"): "--spot: sky:slurm has no such machines",
    (
        "--cloud",
        "mars",
    ): "--cloud 'mars' is not a back end; there is local, modal, slurm, sky (SkyPilot chooses)",
    ("--cloud", "sky:mars"): "--cloud 'sky:mars': SkyPilot has no 'mars'; write sky:CLOUD",
    ("--cloud", "sky:"): "--cloud 'sky:': SkyPilot has no ''; write sky:CLOUD",
    ("--cloud", "nebius/a b"): "--cloud 'nebius/a b' is not a back end",
    ("data.token=abcdef",): "data.token=***: SkyPilot stores a job's command",
    ("force=true",): "force=true with --cloud nebius: a job that begins again would begin from nothing",
    ("training.checkpoint.upload=here",): "training.checkpoint.upload=here is a disk of this machine; give",
    (
        "training.start_from=outputs/a",
    ): "stage2 starts from outputs/a, which only this machine has; upload it",
    ("data.sources=[{location: [/x]}]",): "data.sources=[{location: [/x]}]: '/x' is a path of this machine",
    ("--cloud", "sky:slurm", "data.path=../x"): "data.path=../x: '../x' is a path of this machine, which the",
    ("--foreground",): "--foreground is this terminal",
}


@pytest.mark.parametrize(
    ("cloud", "path"), [("nebius", "code.py"), ("sky:slurm", "/shared/text"), ("kubernetes", "code.py")]
)
def test_files_that_travel_and_disks_of_ones_own_machines_are_taken(sky: Sky, cloud: str, path: str) -> None:
    assert sky.train("--dry-run", f"data.path={path}", cloud=cloud).exit_code == 0


@pytest.mark.parametrize("arguments", REFUSED)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_wrong_requests_are_one_line_and_launch_nothing(
    sky: Sky, arguments: tuple[str, ...], dry: tuple[str, ...]
) -> None:
    done = sky.train(*arguments, *dry)
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"error: {REFUSED[arguments]}")
    assert len(done.output.splitlines()) == 1
    assert "abcdef" not in done.output
    assert not sky.fake.calls
    assert not sky.runs.exists()


def test_a_stage_that_uploads_nothing_is_refused(sky: Sky) -> None:
    done = sky.wf("train", "-s", "2", "--cloud", "nebius", "steps=3")
    assert done.exit_code == 2
    assert done.output.startswith(
        "error: --cloud sky:nebius: its machines keep nothing, and stage2 uploads nothing"
    )


def test_a_call_from_outside_the_checkout_is_refused(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sky.folder)
    done = sky.train()
    assert done.exit_code == 2
    assert f"{sky.folder} is not in the checkout that machines get; call wf in {sky.checkout}" in done.output


def test_a_cloud_without_credentials_is_told_before_anything_is_launched(sky: Sky) -> None:
    done = sky.train(cloud="runpod")
    assert done.exit_code == 2
    assert (
        "nothing was launched: SkyPilot has no access to runpod: `uv tool run --from 'skypilot["
        in done.output
    )
    assert "sky check runpod` says what it lacks" in done.output
    assert sky.fake.calls == ["check ('runpod',)"]
    assert not list(sky.runs.iterdir())


def test_secrets_are_taken_from_the_environment_by_name(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    (sky.checkout / ".wf.toml").write_text('[sky]\nsecrets = ["WF_TEST_KEY"]\n')
    monkeypatch.delenv("WF_TEST_KEY", raising=False)
    done = sky.train()
    assert (done.exit_code, done.output) == (
        2,
        "error: WF_TEST_KEY: a secret in .wf.toml that is not set; export it, or remove it there\n",
    )
    monkeypatch.setenv("WF_TEST_KEY", "hunter2")
    dry = sky.train("--dry-run")
    assert yaml.safe_load(dry.stdout)["secrets"] == {"WF_TEST_KEY": None}
    job_id = sky.submitted()
    assert sky.fake.secrets == {"WF_TEST_KEY": "hunter2"}
    files = [path for path in sky.runs.rglob("*") if path.is_file()]
    assert (sky.runs / job_id / "task.yaml") in files
    assert not [path for path in files if "hunter2" in path.read_text()]
    assert "hunter2" not in dry.output


def test_a_failed_launch_gives_its_machines_back(sky: Sky) -> None:
    def fail() -> None:
        raise RuntimeError("no H100 anywhere")

    sky.fake.on_launch = fail
    before = sky.fake.states(BOB)
    done = sky.train()
    assert done.exit_code == 2
    assert done.output.endswith("error: nothing was launched: SkyPilot: no H100 anywhere\n")
    assert [call.split()[0] for call in sky.fake.calls] == ["launch", "down"]
    assert not list(sky.runs.iterdir())
    assert sky.fake.states(BOB) == before


def test_a_launch_that_took_a_foreign_clusters_name_touches_it_not(sky: Sky) -> None:
    """A name is no proof: whoever has it keeps it."""

    def fail() -> None:
        (name,) = [name for name in sky.fake.clusters if name != "wf-train"]
        sky.fake.clusters[name].user_hash = BOB
        raise RuntimeError("owned by another user")

    sky.fake.on_launch = fail
    done = sky.train()
    assert done.exit_code == 1
    assert "refused: job c17 of" in done.output
    assert f"its user is '{BOB}', not '{ME}'" in done.output
    assert sky.fake.calls == ["launch"]
    assert len(list(sky.runs.iterdir())) == 1


def test_a_lost_answer_is_found_again(sky: Sky) -> None:
    def lose() -> None:
        raise RuntimeError("connection reset")

    sky.fake.on_launch = lose
    job_id = sky.submitted(*SPOT)
    assert sky.record(job_id)["id"] == "17"


def test_ctrl_c_while_it_launches_says_what_goes_on(sky: Sky) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    sky.fake.on_launch = stop
    done = sky.train()
    assert done.exit_code == 130
    (job_id,) = os.listdir(sky.runs)
    assert f"`wf cancel {job_id}` ends it" in done.output
    sky.fake.on_launch = None
    assert sky.rows()[0]["state"] == "starting"
    assert (sky.runs / job_id / "workdir").exists()  # SkyPilot goes on, and needs it
    sky.fake.add_to_queue(f"wf-{job_id}", f"wf-{job_id}", ME)
    assert sky.rows()[0]["state"] == "running"
    assert not (sky.runs / job_id / "workdir").exists()
    assert sky.wf("cancel", job_id).exit_code == 0
    assert f"wf-{job_id}" not in sky.fake.clusters


def test_a_full_disk_launches_nothing_and_leaves_nothing(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(root: Path, target: Path) -> None:
        target.mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(launcher, "copy_checkout", full)
    done = sky.train()
    assert done.exit_code == 1
    assert "No space left on device; free some space" in done.output
    assert not sky.fake.calls
    assert not list(sky.runs.iterdir())


STATES = {
    "INIT": "starting",
    "PENDING": "pending",
    "SETTING_UP": "starting",
    "RUNNING": "running",
    "SUCCEEDED": "finished",
    "FAILED": "failed",
    "FAILED_SETUP": "failed",
    "WHATEVER": "unknown",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("spot", [(), SPOT])
def test_states(sky: Sky, spot: tuple[str, ...], state: str) -> None:
    job_id = sky.submitted(*spot)
    entry = sky.fake.jobs[17] if spot else sky.fake.queues[f"wf-{job_id}"][0]
    entry.status = status(state)
    assert sky.rows()[0]["state"] == STATES[state]
    assert (sky.runs / job_id / "exit.json").exists() is (STATES[state] in ("finished", "failed"))


def test_the_end_that_the_job_left_says_how_it_ended(sky: Sky) -> None:
    first, second = sky.submitted(), sky.submitted()
    for job_id, code in ((first, 0), (second, 3)):
        sky.leaves(job_id, code)
        sky.fake.down(f"wf-{job_id}")()
    rows = {row["id"]: (row["state"], row["exit_code"]) for row in sky.rows()}
    assert rows == {first: ("finished", 0), second: ("failed", 3)}
    sky.stored.clear()
    assert sky.wf("logs", first).stdout == "from the store\n"
    assert "failed, exit code 3" in sky.wf("logs", "-f", second).stderr


@pytest.mark.parametrize(("is_missing", "state"), [(True, "lost"), (False, "unknown")])
def test_machines_that_left_nothing(sky: Sky, is_missing: bool, state: str) -> None:
    job_id = sky.submitted()
    sky.fake.down(f"wf-{job_id}")()
    sky.store_is_missing, sky.store_reason = is_missing, "what the store says"
    (row,) = sky.rows()
    assert row["state"] == state
    assert "how it ended is not known: what the store says" in row["problem"]
    done = sky.wf("cancel", job_id)
    assert done.exit_code == 1
    assert f"refused: SkyPilot has no wf-{job_id} (any more); nothing was touched" in done.output
    assert "left no log: what the store says" in sky.wf("logs", job_id).output


@pytest.mark.parametrize("spot", [(), SPOT])
def test_a_server_that_does_not_answer_is_no_lost_job(sky: Sky, spot: tuple[str, ...]) -> None:
    job_id = sky.submitted(*spot)

    def down() -> None:
        raise ConnectionError("API server unreachable")

    sky.fake.on_status = down
    (row,) = sky.rows()
    assert (row["state"], row["problem"]) == ("unknown", "SkyPilot: API server unreachable")
    done = sky.wf("cancel", job_id)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, "error: SkyPilot: API server unreachable")
    sky.fake.on_status = None
    assert sky.rows()[0]["state"] == "running"


@pytest.mark.parametrize("spot", [(), SPOT])
def test_logs(sky: Sky, spot: tuple[str, ...]) -> None:
    job_id = sky.submitted(*spot)
    assert sky.wf("logs", job_id).stdout == "one\ntwo\n"
    assert sky.wf("logs", "-n", "1", job_id).stdout == "two\n"


@pytest.mark.parametrize("spot", [(), SPOT])
@pytest.mark.parametrize("options", [(), ("--kill", "--timeout", "0")])
def test_every_command_leaves_what_is_others_alone(
    sky: Sky, spot: tuple[str, ...], options: tuple[str, ...]
) -> None:
    before = sky.fake.states(BOB)
    assert len(before) == 5
    job_id = sky.submitted(*spot)
    assert sky.wf("runs").exit_code == 0
    assert sky.wf("logs", job_id).exit_code == 0
    done = sky.wf("cancel", job_id, *options)
    assert done.exit_code == 0, done.output
    assert f"{job_id}: cancelled" in done.stdout
    assert sky.rows()[0]["state"] == "cancelled"
    assert sky.wf("cancel", job_id).exit_code == 1
    assert sky.fake.states(BOB) == before
    name = f"wf-{job_id}"
    asked = ["jobs.cancel None [17]"] if spot else [f"cancel {name} [1]", f"down {name}"]
    assert sky.fake.calls[1:] == asked


def test_a_cluster_on_which_others_work_stays(sky: Sky) -> None:
    job_id = sky.submitted()
    name = f"wf-{job_id}"
    sky.fake.add_to_queue(name, "x", BOB, "SUCCEEDED")
    sky.fake.add_to_queue(name, name, BOB)
    done = sky.wf("cancel", job_id)
    assert done.exit_code == 1
    assert f"cluster {name} stays: it also runs job 3 of {BOB}" in done.output
    assert [job.status.value for job in sky.fake.queues[name]] == ["CANCELLED", "SUCCEEDED", "RUNNING"]


@pytest.mark.parametrize(("pieces", "shown"), [(["one\n"], "one\n"), ([], "from the store\n")])
def test_machines_that_go_while_their_log_is_followed(
    sky: Sky, monkeypatch: pytest.MonkeyPatch, pieces: list[str], shown: str
) -> None:
    job_id = sky.submitted()

    def breaks(tail: int | None) -> Iterator[str]:
        yield from pieces
        sky.leaves(job_id, 0)
        sky.fake.down(f"wf-{job_id}")()
        raise ConnectionError("connection closed")

    monkeypatch.setattr(sky.fake, "tail", breaks)
    done = sky.wf("logs", "-f", job_id)
    assert (done.exit_code, done.stdout) == (0, shown)
    assert f"{job_id}: finished, exit code 0" in done.stderr


def only(sky: Sky) -> Any:
    """The cluster or the managed job that was launched."""
    found = [
        entry for entry in (*sky.fake.clusters.values(), *sky.fake.jobs.values()) if entry.user_hash == ME
    ]
    assert len(found) == 1
    return found[0]


def change(spot_name: str, cluster_name: str, value: Any) -> Callable[[Sky], None]:
    def changed(sky: Sky) -> None:
        entry = only(sky)
        setattr(entry, spot_name if hasattr(entry, "job_id") else cluster_name, value)

    return changed


OTHER_TOKEN = f"envs: {{WF_JOB_TOKEN: '{'0' * 32}'}}"
DIFFERENT: dict[str, tuple[Callable[[Sky], None], str]] = {
    "user": (change("user_hash", "user_hash", BOB), f"its user is '{BOB}', not '{ME}'"),
    "server": (lambda sky: setattr(sky.fake, "url", "https://me:pw@other"), "its cluster is 'https://other'"),
    "no token": (change("user_yaml", "last_creation_yaml", None), "it carries no token"),
    "no envs": (change("user_yaml", "last_creation_yaml", "envs:"), "it carries no token"),
    "token": (change("user_yaml", "last_creation_yaml", OTHER_TOKEN), "its token is another"),
    "later": (change("submitted_at", "launched_at", NOW + 60), "it was submitted 60 s later"),
    "earlier": (change("submitted_at", "launched_at", NOW - 60), "it was submitted 60 s earlier"),
}


@pytest.mark.parametrize("spot", [(), SPOT])
@pytest.mark.parametrize("what", DIFFERENT)
def test_cancel_refuses_what_is_not_the_job_that_was_submitted(
    sky: Sky, spot: tuple[str, ...], what: str
) -> None:
    changed, told = DIFFERENT[what]
    job_id = sky.submitted(*spot)
    changed(sky)
    before = sky.fake.states(BOB), sky.fake.states(ME)
    done = sky.wf("cancel", job_id, "--kill", "--timeout", "0")
    assert done.exit_code == 1
    assert "refused: job" in done.output
    assert told in done.output
    assert "me:pw" not in done.output
    assert len(sky.fake.calls) == 1
    assert (sky.fake.states(BOB), sky.fake.states(ME)) == before
    assert not (sky.runs / job_id / "cancel.json").exists()
    assert sky.rows()[0]["state"] == "lost"
    assert sky.wf("logs", job_id).exit_code == 1


def test_a_cluster_that_got_our_name_later_is_not_ours(sky: Sky) -> None:
    """Even with our user, name and task: its id is another."""
    job_id = sky.submitted()
    name = f"wf-{job_id}"
    task = sky.fake.clusters[name].last_creation_yaml
    sky.fake.down(name)()
    sky.fake.add_cluster(name, ME, task, hash="another")
    done = sky.wf("cancel", job_id)
    assert done.exit_code == 1
    assert "its id is 'another', not 'c17'" in done.output
    assert name in sky.fake.clusters


def test_a_reused_job_id_is_not_ours(sky: Sky) -> None:
    job_id = sky.submitted(*SPOT)
    sky.fake.add_job(17, BOB, f"wf-{job_id}")
    done = sky.wf("cancel", job_id)
    assert done.exit_code == 1
    assert f"its user is '{BOB}'" in done.output
    assert sky.fake.jobs[17].status.value == "RUNNING"


def test_a_managed_job_gets_its_time_when_its_turn_has_come(sky: Sky) -> None:
    def waits() -> None:
        sky.fake.jobs[17].submitted_at = None
        sky.fake.jobs[17].status = status("PENDING")

    sky.fake.on_launch = waits
    job_id = sky.submitted(*SPOT)
    assert sky.record(job_id)["submitted_s"] == 0
    sky.fake.jobs[17].submitted_at = NOW + 30.5
    sky.fake.jobs[17].status = status("RUNNING")
    assert sky.rows()[0]["state"] == "running"
    assert sky.record(job_id)["submitted_s"] == NOW + 30
    sky.fake.jobs[17].submitted_at = NOW + 99
    assert sky.wf("cancel", job_id).exit_code == 1
    sky.fake.jobs[17].recovery_count = 1  # it began anew
    assert sky.wf("cancel", job_id).exit_code == 0


@pytest.mark.parametrize("spot", [(), SPOT])
def test_a_job_whose_id_could_not_be_written_down_is_found_by_its_token(
    sky: Sky, spot: tuple[str, ...]
) -> None:
    """`kill -9` between launch and record, while bob has jobs of the same name."""
    job_id = sky.submitted(*spot)
    (sky.runs / job_id / "submitted.json").unlink()
    sky.fake.add_job(90, BOB, f"wf-{job_id}")
    assert sky.rows()[0]["state"] == "running"
    assert sky.record(job_id)["id"] == ("17" if spot else "c17")
    (sky.runs / job_id / "submitted.json").unlink()
    assert sky.wf("cancel", job_id).exit_code == 0
    assert sky.fake.jobs[90].status.value == "RUNNING"


def test_a_launch_that_is_not_there_after_a_while_is_lost(sky: Sky) -> None:
    job_id = sky.submitted()
    (sky.runs / job_id / "submitted.json").unlink()
    sky.fake.down(f"wf-{job_id}")()
    assert sky.rows()[0]["state"] == "starting"
    path = sky.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_s": time.time() - 1000}))
    assert sky.rows()[0]["state"] == "lost"


def test_a_record_of_another_job_is_damaged(sky: Sky) -> None:
    first, second = sky.submitted(), sky.submitted()
    text = (sky.runs / first / "submitted.json").read_bytes()
    (sky.runs / second / "submitted.json").write_bytes(text)
    done = sky.wf("cancel", second)
    assert done.exit_code == 1
    assert "submitted.json is damaged: it is of another job" in done.output
    assert {f"wf-{first}", f"wf-{second}"} <= sky.fake.clusters.keys()


@pytest.mark.parametrize("text", ["{", '{"id": 17}', "\udcff"])
@pytest.mark.parametrize("name", ["submitted.json", "job.json", "exit.json"])
def test_damaged_records_are_told_and_nothing_is_cancelled(sky: Sky, name: str, text: str) -> None:
    job_id = sky.submitted()
    (sky.runs / job_id / name).write_text(text, errors="surrogateescape")
    (row,) = sky.rows()
    assert row["state"] == "damaged"
    assert name in row["problem"]
    assert sky.wf("cancel", job_id).exit_code == 1
    assert f"wf-{job_id}" in sky.fake.clusters


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("job.json", {"upload": None}, "job.json is damaged: a job of SkyPilot has an upload"),
        ("submitted.json", {"id": "c17"}, "id is 'c17', not a managed job's number"),
        ("submitted.json", {"id": "-1"}, "id is '-1', not a managed job's number"),
    ],
)
def test_records_that_were_changed_by_hand(sky: Sky, name: str, changes: dict[str, Any], told: str) -> None:
    job_id = sky.submitted(*SPOT)
    del sky.fake.jobs[17]
    path = sky.runs / job_id / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (row,) = sky.rows()
    assert row["state"] == "damaged"
    assert told in row["problem"]
    assert sky.wf("cancel", job_id).exit_code == 1


def test_a_damaged_end_is_told(sky: Sky) -> None:
    job_id = sky.submitted()
    sky.leaves(job_id, 0)
    sky.stored[f"gs://bucket/runs/wf-jobs/{job_id}"]["returncode"] = "0"
    sky.fake.down(f"wf-{job_id}")()
    (row,) = sky.rows()
    assert row["state"] == "damaged"
    assert "exit.json is damaged: returncode is '0', not a whole number" in row["problem"]


def test_a_record_names_a_cloud_that_there_is(sky: Sky) -> None:
    job_id = sky.submitted()
    path = sky.runs / job_id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cloud": "sky:moon"}))
    assert "cloud is 'sky:moon', not one of local, modal, slurm" in sky.rows()[0]["problem"]
