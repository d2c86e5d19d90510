"""Which job or cluster of SkyPilot is the one of a record, and how it is."""

from __future__ import annotations

import re
from dataclasses import replace

from wf_deployer.backends.base import JobState
from wf_deployer.backends.ownership import (
    Ownership,
    read_ownership,
    require_ours,
    require_recorded_of,
    write_ownership,
)
from wf_deployer.backends.record import JobFolder
from wf_deployer.backends.sky.client import ClusterJob, SkyError, SkyJob
from wf_deployer.errors import CommandError

UNSETTLED = "; if its launch was interrupted, it may appear in some minutes: `wf runs` shows it then"
"""Of what SkyPilot never has confirmed."""
_STATES = {
    JobState.pending: "PENDING",
    JobState.starting: "INIT SUBMITTED STARTING SETTING_UP",
    JobState.running: "RUNNING WINDING_DOWN RECOVERING CANCELLING",
    JobState.finished: "SUCCEEDED",
    JobState.cancelled: "CANCELLED",
    JobState.failed: (
        "FAILED FAILED_DRIVER FAILED_SETUP FAILED_PRECHECKS FAILED_NO_RESOURCE FAILED_CONTROLLER"
    ),
}
_STATE_OF = {name: state for state, names in _STATES.items() for name in names.split()}


def expected(job: JobFolder, found: SkyJob) -> Ownership:
    """What `found` has to be: as written down, else with the name, user and token of the record.

    A time that was not known yet is taken from `found`: a managed job gets one when its turn has come.

    Raises:
        CommandError: what was written down is of another job.
    """
    record, recorded = job.record, read_ownership(job.folder)
    if recorded is None:
        return replace(found.ownership, name=record.name, user=found.me, token=record.token)
    require_recorded_of(record, recorded, job.folder)
    return recorded if recorded.submitted_s else replace(recorded, submitted_s=found.ownership.submitted_s)


def adopt(job: JobFolder, found: SkyJob) -> None:
    """Writes down whose job it is, once it is settled. Raises: CommandError if `found` is not ours."""
    ownership = expected(job, found)
    require_ours(ownership, found.ownership)
    is_cluster = not job.record.resources.spot and job.record.service is None
    is_settled = not is_cluster or found.state == "UP"  # a cluster's time is of its last start
    if is_settled and read_ownership(job.folder) != ownership:
        write_ownership(job.folder, ownership)


def managed_id(job: JobFolder, ownership: Ownership) -> int:
    """Raises: CommandError for what is no id of a managed job."""
    if not re.fullmatch(r"[1-9]\d{0,17}", ownership.id, re.ASCII):
        path = job.folder / "submitted.json"
        raise CommandError(f"{path} is damaged: id is {ownership.id!r:.60}, not a managed job's number")
    return int(ownership.id)


def own_job(job: JobFolder, found: SkyJob) -> ClusterJob | None:
    """The newest of our name and user in the cluster's queue."""
    name = job.record.name
    own = [other for other in found.jobs if (other.name, other.user) == (name, found.ownership.user)]
    return max(own, key=lambda other: other.id, default=None)


def state_of(job: JobFolder, found: SkyJob) -> JobState:
    """Raises: SkyError for a state that is not known."""
    if job.record.resources.spot:
        return known_state(found.state)
    own = own_job(job, found)
    return JobState.starting if own is None else known_state(own.state)


def known_state(state: str) -> JobState:
    if state not in _STATE_OF:
        raise SkyError(f"SkyPilot says {state!r:.60} of a job, which wf does not know")
    return _STATE_OF[state]
