"""Ends of jobs that are asked for, alike in all back ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from wf_deployer.backends.base import JobState
from wf_deployer.errors import CommandError


def require_running(job_id: str, state: JobState) -> None:
    """Raises: CommandError for a job that is over."""
    if state.is_over:
        raise CommandError(f"{job_id} is not running: it is {state}")


def wait_for_end(state_of: Callable[[], JobState], timeout_s: float, poll_s: float) -> JobState:
    """Asks until the job is over or the time is. Returns: its state then."""
    deadline_s = time.monotonic() + timeout_s
    while not (state := state_of()).is_over and time.monotonic() < deadline_s:
        time.sleep(poll_s)
    return state
