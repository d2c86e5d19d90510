"""Ends of jobs that go wrong: machines that stay, stores and servers that do not answer, Ctrl-C."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest
from fake_sky import FakeSky, status
from sky_table import Sky

from wf_deployer.backends.record import JobFolder
from wf_deployer.backends.sky import end
from wf_deployer.errors import CommandError

SPOT = ("--spot",)


def fails(fake: FakeSky, name: str) -> Callable[..., object]:
    """A call of SkyPilot that does not come through."""

    def failed(*arguments: object, **options: object) -> object:
        fake.calls.append(name)
        raise ConnectionError("API server unreachable")

    return failed


def test_machines_of_slurm_are_given_back_at_each_look_until_it_succeeds(
    sky: Sky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script was killed before it could."""
    job_id = sky.submitted(cloud="sky:slurm")
    sky.fake.queues[f"wf-{job_id}"][0].status = status("FAILED")
    with monkeypatch.context() as patch:
        patch.setattr(sky.fake, "down", fails(sky.fake, "down"))
        for _ in range(2):
            (row,) = sky.rows()
            assert (row["state"], row["exit_code"]) == ("failed", 1)
            reason = "SkyPilot: API server unreachable"
            assert row["problem"] == f"ended, machines not yet given back: {reason}"
    assert sky.fake.calls.count("down") == 2
    (row,) = sky.rows()
    assert (row["state"], row["problem"]) == ("failed", None)
    assert f"wf-{job_id}" not in sky.fake.clusters
    assert "wf-train" in sky.fake.clusters
    num_calls = len(sky.fake.calls)
    sky.fake.on_status = fails(sky.fake, "asked")
    assert sky.rows()[0]["state"] == "failed"  # it is done: nobody is asked again
    assert len(sky.fake.calls) == num_calls


def test_machines_of_slurm_on_which_others_work_stay_and_it_is_said(sky: Sky) -> None:
    job_id = sky.submitted(cloud="sky:slurm")
    name = f"wf-{job_id}"
    sky.fake.queues[name][0].status = status("SUCCEEDED")
    foreign = sky.fake.add_to_queue(name, "x", "b0bb0bb0")
    (row,) = sky.rows()
    assert row["state"] == "finished"
    assert f"not yet given back: cluster {name} stays: it also runs job 2 of b0bb0bb0" in row["problem"]
    foreign.status = status("SUCCEEDED")
    assert sky.rows()[0]["problem"] is None
    assert name not in sky.fake.clusters


@pytest.mark.parametrize("cloud", ["nebius", "sky:slurm"])
def test_a_store_that_does_not_answer_makes_nothing_final(sky: Sky, cloud: str) -> None:
    job_id = sky.submitted(cloud=cloud)
    sky.fake.queues[f"wf-{job_id}"][0].status = status("FAILED")
    sky.store_is_missing, sky.store_reason = False, "gs://bucket did not answer"
    (row,) = sky.rows()
    assert (row["state"], row["exit_code"]) == ("failed", None)
    assert row["problem"] == "how it ended is not known yet: gs://bucket did not answer"
    assert not (sky.runs / job_id / "exit.json").exists()
    if cloud == "nebius":
        sky.fake.down(f"wf-{job_id}")()
    (row,) = sky.rows()  # SkyPilot has forgotten it, we have not
    assert (row["state"], row["exit_code"]) == ("failed", None)
    sky.leaves(job_id, 7)
    (row,) = sky.rows()
    assert (row["state"], row["exit_code"], row["problem"]) == ("failed", 7, None)


def test_a_job_that_left_nothing_has_skypilots_word_as_its_end(sky: Sky) -> None:
    job_id = sky.submitted()
    sky.fake.queues[f"wf-{job_id}"][0].status = status("FAILED")
    sky.store_is_missing = False
    assert sky.rows()[0]["exit_code"] is None
    sky.fake.down(f"wf-{job_id}")()
    sky.store_is_missing = True
    assert (sky.rows()[0]["state"], sky.rows()[0]["exit_code"]) == ("failed", 1)
    (sky.runs / job_id / "exit.json").unlink()
    (sky.runs / job_id / "last_state.json").write_text('"asleep"')
    assert "last_state.json is damaged: it is 'asleep', not a state" in sky.rows()[0]["problem"]


@pytest.mark.parametrize("spot", [(), SPOT])
def test_a_cancel_that_was_not_delivered_is_none(
    sky: Sky, monkeypatch: pytest.MonkeyPatch, spot: tuple[str, ...]
) -> None:
    job_id = sky.submitted(*spot)
    with monkeypatch.context() as patch:
        patch.setattr(sky.fake, "cancel_job" if spot else "cancel", fails(sky.fake, "cancel"))
        done = sky.wf("cancel", job_id)
        assert done.exit_code == 1
        assert "API server unreachable" in done.output
    assert not (sky.runs / job_id / "cancel.json").exists()
    assert sky.rows()[0]["state"] == "running"
    sky.leaves(job_id, 3)
    (sky.fake.jobs[17] if spot else sky.fake.queues[f"wf-{job_id}"][0]).status = status("FAILED")
    assert sky.rows()[0]["state"] == "failed"


def test_a_cancel_that_was_delivered_counts_though_the_machines_stay(
    sky: Sky, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = sky.submitted(cloud="sky:slurm")
    with monkeypatch.context() as patch:
        patch.setattr(sky.fake, "down", fails(sky.fake, "down"))
        assert sky.wf("cancel", job_id).exit_code == 1
        (row,) = sky.rows()
        assert row["state"] == "cancelled"
        assert "not yet given back" in row["problem"]
    assert sky.rows()[0]["problem"] is None
    assert f"wf-{job_id}" not in sky.fake.clusters


def test_a_mark_of_wf_cancel_that_was_killed_does_not_count(sky: Sky) -> None:
    job = JobFolder.of(sky.submitted())

    def asks_in_vain() -> None:
        with job.asking_for_its_end():
            assert job.was_cancelled  # whoever looks meanwhile does not take the end for a failure
            raise CommandError("not delivered")

    with pytest.raises(CommandError, match="not delivered"):
        asks_in_vain()
    assert not job.was_cancelled
    (job.folder / "cancel.json").write_text('{"asked_s": 5, "is_delivered": false}')  # left by kill -9
    assert not job.was_cancelled
    with job.asking_for_its_end():
        pass
    with pytest.raises(CommandError, match="not delivered"):
        asks_in_vain()
    assert job.was_cancelled
    (job.folder / "cancel.json").write_text('{"asked_s": 5}')  # of an earlier version
    assert job.was_cancelled
    (job.folder / "cancel.json").write_text("{")
    with pytest.raises(CommandError, match=r"cancel\.json"):
        _ = job.was_cancelled


INTERRUPTIONS = {
    "Ctrl-C": (KeyboardInterrupt(), 130, "stopped while it was submitted; "),
    "disk": (OSError(28, "No space left on device", "x"), 1, "x: No space left on device; free some space"),
}


@pytest.mark.parametrize("what", INTERRUPTIONS)
def test_whatever_ends_a_launch_the_command_that_frees_its_machines_is_told(
    sky: Sky, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    error, code, told = INTERRUPTIONS[what]

    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr("wf_deployer.backends.sky.launcher.adopt", interrupted)
    done = sky.train()
    (job_id,) = os.listdir(sky.runs)
    assert done.exit_code == code
    assert told in done.output
    assert f"{job_id} may be running: `wf runs` shows it, `wf cancel {job_id}` ends it" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_the_files_of_a_launch_that_was_killed_are_removed_in_the_end(sky: Sky) -> None:
    """`kill -9` of `wf`; nothing was launched."""
    job_id = sky.submitted()
    folder = sky.runs / job_id
    (folder / "submitted.json").unlink()
    (folder / "workdir").mkdir()
    sky.fake.down(f"wf-{job_id}")()
    assert sky.rows()[0]["state"] == "starting"
    assert (folder / "workdir").exists()
    path = folder / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_s": time.time() - 4000}))
    assert sky.rows()[0]["state"] == "lost"
    assert not (folder / "workdir").exists()


def test_a_launch_that_takes_long_is_not_lost(sky: Sky) -> None:
    seen: list[str] = []

    def look() -> None:
        (path,) = sky.runs.glob("*/job.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"created_s": time.time() - 4000}))
        sky.fake.jobs.pop(17)
        seen.append(sky.rows()[0]["state"])
        sky.fake.add_job(17, sky.fake.me, f"wf-{path.parent.name}", "envs: {}")

    sky.fake.on_launch = look
    sky.train(*SPOT)
    assert seen == ["starting"]


def test_only_the_stores_own_no_is_an_answer(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `wf store get`: a wrong request of ours, a server that is not there, a bucket without it."""
    folder = tmp_path_factory.mktemp("there")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    refused = end.get_upload("s3://bucket/runs/wf-jobs/j", folder / "a")
    assert refused is not None
    assert not refused.is_missing
    missing = end.get_upload(str(folder / "wf-jobs" / "j"), folder / "b")
    assert missing is not None
    assert missing.is_missing
    assert not (folder / "b").exists()
