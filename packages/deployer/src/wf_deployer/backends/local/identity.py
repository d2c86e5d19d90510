"""Which process it is: a pid alone is not enough, since the system gives it out again.

A process is ours if the pid's process was created when ours was and still carries the job's random
token: the supervisor in its command line, the job's own process in its environment.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]  # no stubs in the development group

TOKEN_VARIABLE = "WF_JOB_TOKEN"
_CREATED_TOLERANCE_S = 2.0
"""`psutil` derives the time from the boot time, which moves when the clock is corrected."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A pid with the time at which its process was created (seconds since 1970)."""

    pid: int
    created_s: float


def identify(pid: int) -> ProcessIdentity:
    """Raises: psutil.NoSuchProcess."""
    return ProcessIdentity(pid, psutil.Process(pid).create_time())


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether this very process (not a later one of the same pid) still runs; zombies do not."""
    try:
        process = psutil.Process(identity.pid)
        created_s: float = process.create_time()
        same = abs(created_s - identity.created_s) < _CREATED_TOLERANCE_S
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def carries_token(pid: int, token: str) -> bool:
    """Whether the process has the job's token in its command line or environment.

    A process of another user cannot be read: that is not ours either.
    """
    try:
        process = psutil.Process(pid)
        return bool(token in process.cmdline() or process.environ().get(TOKEN_VARIABLE) == token)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
