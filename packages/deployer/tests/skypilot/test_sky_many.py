"""`wf runs` with many jobs of SkyPilot: one question for all of them, whose each is decided for itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_sky import BOB, InProcess, status
from sky_table import Sky

from wf_deployer.backends.isolated import LateError
from wf_deployer.backends.record import JobFolder
from wf_deployer.backends.registry import list_jobs, statuses
from wf_deployer.backends.sky import end

SPOT = ("--spot",)


def states(sky: Sky) -> dict[str, str]:
    return {row["id"]: row["state"] for row in sky.rows()}


@pytest.fixture
def processes(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The operations that each process of SkyPilot's environment is asked for."""
    found: list[list[str]] = []
    real = InProcess.ask_each

    def ask_each(self: InProcess, requests: Any, *, timeout_s: float) -> Any:
        found.append([request["operation"] for request in requests])
        return real(self, requests, timeout_s=timeout_s)

    monkeypatch.setattr(InProcess, "ask_each", ask_each)
    return found


def submitted_each(sky: Sky) -> list[str]:
    """Two clusters and two managed jobs, in different places of a cloud."""
    return [
        sky.submitted(*options, cloud=cloud)
        for options in ((), SPOT)
        for cloud in ("gcp/us-central1", "gcp/europe-west4")
    ]


@pytest.fixture
def gcp(sky: Sky) -> Sky:
    (sky.folder / "checkout" / ".wf.toml").write_text("[sky]\ngcp_cpus = 24\n")
    return sky


def test_skypilot_is_asked_once_for_all_and_foreign_jobs_are_none_of_them(
    gcp: Sky, processes: list[list[str]]
) -> None:
    ids = submitted_each(gcp)
    requests: list[str] = []
    gcp.fake.on_status = lambda: requests.append("asked")
    processes.clear()
    gcp.fake.queues[f"wf-{ids[0]}"][0].status = status("PENDING")
    gcp.fake.add_to_queue(f"wf-{ids[0]}", "wf-train", BOB)
    gcp.fake.jobs[int(gcp.record(ids[3])["id"])].status = status("RECOVERING")
    before = gcp.fake.states(BOB)
    assert states(gcp) == dict(zip(ids, ("pending", "running", "running", "running"), strict=True))
    assert [sorted(asked) for asked in processes] == [["cluster", "cluster", "job", "job"]]
    assert len(requests) == 2  # one of the clusters, one of the managed jobs
    assert gcp.fake.states(BOB) == before


DIFFERENT: dict[str, Callable[[Any], None]] = {
    "id": lambda found: setattr(found, "cluster_hash", "another"),
    "user": lambda found: setattr(found, "user_hash", BOB),
    "time": lambda found: setattr(found, "launched_at", found.launched_at + 3600),
    "token": lambda found: setattr(found, "last_creation_yaml", "envs: {WF_JOB_TOKEN: another}"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_is_not_ours_among_many_is_lost_alone(sky: Sky, what: str) -> None:
    ids = [sky.submitted() for _ in range(3)]
    DIFFERENT[what](sky.fake.clusters[f"wf-{ids[1]}"])
    assert states(sky) == {ids[0]: "running", ids[1]: "lost", ids[2]: "running"}


def test_another_server_has_none_of_ours(sky: Sky) -> None:
    ids = [sky.submitted() for _ in range(2)]
    sky.fake.url = "https://sky.example"
    assert states(sky) == dict.fromkeys(ids, "lost")


def test_a_cluster_that_cannot_be_asked_hides_no_other(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [sky.submitted() for _ in range(3)]
    real = sky.fake.queue

    def queue(name: str, all_users: bool) -> Callable[[], Any]:
        def unreachable() -> Any:
            raise ConnectionError("no route to its head")

        return unreachable if name == f"wf-{ids[1]}" else real(name, all_users)

    monkeypatch.setattr(sky.fake, "queue", queue)
    rows = {row["id"]: row for row in sky.rows()}
    assert [rows[job_id]["state"] for job_id in ids] == ["running", "unknown", "running"]
    assert rows[ids[1]]["problem"] == "SkyPilot: no route to its head"


def test_a_damaged_record_hides_no_other(sky: Sky) -> None:
    ids = [sky.submitted(*SPOT) for _ in range(3)]
    path = sky.runs / ids[1] / "submitted.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "c17"}))
    assert states(sky) == {ids[0]: "running", ids[1]: "damaged", ids[2]: "running"}


def test_a_server_that_does_not_answer_is_one_line_and_unknown_within_the_time(
    sky: Sky, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        sky.submitted()
    limits: list[float] = []

    def late(self: object, requests: list[Any], *, timeout_s: float) -> list[Any]:
        limits.append(timeout_s)
        return [LateError("program.py", timeout_s)] * len(requests)

    monkeypatch.setattr(InProcess, "ask_each", late)
    done = sky.wf("runs", "--timeout", "30")
    assert done.exit_code == 0
    (told,) = done.stderr.splitlines()
    newest = list_jobs()[-1].id
    assert told.startswith(
        f"{newest} and 2 more: SkyPilot has not answered within 30 s; try again, or `wf runs"
    )
    assert done.stdout.count("unknown") == 3
    assert len(limits) == 1
    assert 29 < limits[0] <= 30
    sky.wf("logs", newest)  # a question of its own has its own time
    assert limits[1] == 90


def test_one_that_takes_its_time_leaves_the_others_theirs(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its share of what is left; nobody is asked when nothing is."""
    sky.submitted(cloud="sky")
    sky.submitted(cloud="kubernetes")
    times: list[float] = []

    def slow(self: object, requests: list[Any], *, timeout_s: float) -> list[Any]:
        times.append(timeout_s)
        time.sleep(timeout_s)
        return [LateError("program.py", timeout_s)] * len(requests)

    monkeypatch.setattr(InProcess, "ask_each", slow)
    started_s = time.monotonic()
    told = statuses(list_jobs(), 0.4)
    assert time.monotonic() - started_s < 5
    assert len(told) == 2
    assert times[0] == pytest.approx(0.2, abs=0.05)
    assert 0 < times[1] <= 0.2


def test_when_the_time_is_over_nothing_more_is_fetched_or_given_back(
    sky: Sky, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = sky.submitted(cloud="sky:slurm")
    sky.fake.queues[f"wf-{job_id}"][0].status = status("FAILED")
    sky.leaves(job_id, 1)
    real, limits = end.get_upload, []

    def get(url: str, there: Any, timeout_s: float) -> end.NoUpload | None:
        limits.append(timeout_s)
        return real(url, there, timeout_s)

    monkeypatch.setattr(end, "get_upload", get)
    tell = list_jobs()[0].backend.look([job_id], time.monotonic())
    job = JobFolder.of(job_id)
    assert tell(job_id).state == "failed"
    assert limits == [0]
    assert job.exit is not None
    assert f"wf-{job_id}" in sky.fake.clusters
    assert sky.rows()[0]["problem"] is None
    assert f"wf-{job_id}" not in sky.fake.clusters
