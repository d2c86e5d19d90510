"""Which process it is: a pid alone is not enough, since the system gives it out again.

A process is ours if the pid's process began in the same boot of the machine and at the same clock tick
after it as ours did, and still carries the job's random token: the supervisor as its last argument, the
job's own process in its environment. Boot and tick do not change when somebody sets the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # no stubs in the development group

from wf_deployer.backends.record import TOKEN_VARIABLE

_PROC = Path("/proc")
_ZOMBIES = ("Z", "X")


@dataclass(frozen=True)
class ProcessIdentity:
    """A pid with when its process began.

    Attributes:
        start_ticks: Clock ticks from the machine's boot.
        boot_id: Random id of that boot.
    """

    pid: int
    start_ticks: int
    boot_id: str


def identify(pid: int) -> ProcessIdentity:
    """Raises: ProcessLookupError if there is no such process."""
    if (found := _state_and_start(pid)) is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return ProcessIdentity(pid, found[1], _boot_id())


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether this very process (not a later one of the same pid) still runs; zombies do not."""
    found = _state_and_start(identity.pid)
    if found is None or identity.boot_id != _boot_id():
        return False
    state, start_ticks = found
    return start_ticks == identity.start_ticks and state not in _ZOMBIES


def carries_token(pid: int, token: str) -> bool:
    """Whether the process has the job's token as its last argument or in its environment.

    A process of another user cannot be read: that is not ours either.
    """
    try:
        process = psutil.Process(pid)
        return token in (*process.cmdline()[-1:], process.environ().get(TOKEN_VARIABLE, ""))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """State and start of a process (fields 3 and 22 of /proc/PID/stat); None if there is none."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = stat.rpartition(b")")[2].split()  # the name before may have blanks and brackets
    return fields[0].decode(), int(fields[19])
