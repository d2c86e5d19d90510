"""Stopping a job: verified, then SIGTERM to its process group, then waiting.

Nothing is signalled unless it is certain that the process group is the job's: the pid's process began
when the record says, carries the job's token and leads (or belongs to) the group. A record from another
machine, a recycled pid or a hand-made record is refused.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from wf_deployer.backends.base import JobState
from wf_deployer.backends.ending import require_running, wait_for_end
from wf_deployer.backends.local.identity import ProcessIdentity, carries_token, is_alive
from wf_deployer.backends.local.record import LocalJob
from wf_deployer.backends.record import Exit
from wf_deployer.errors import CommandError

_POLL_S = 0.1


def cancel(job: LocalJob, timeout_s: float, kill: bool = False) -> JobState:
    """Asks the job to stop and waits; returns its state afterwards (`running`: it takes longer).

    Args:
        timeout_s: How long to wait after SIGTERM.
        kill: Send SIGKILL when the time is over.
    Raises:
        CommandError: the job has ended, or its processes cannot be verified as ours.
    """
    state = job.state
    if state is JobState.lost:
        raise CommandError(f"refused: {_why_lost(job)}; nothing was signalled")
    require_running(job.folder.name, state)
    _signal_group(job, signal.SIGTERM)
    if not wait_for_end(lambda: job.state, timeout_s, _POLL_S).is_over and kill:
        _signal_group(job, signal.SIGKILL)
        job.write_exit(Exit(-signal.SIGKILL, True, time.time()))  # the supervisor is dead as well
    return job.state


def _signal_group(job: LocalJob, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended in between
        os.killpg(_verified_group(job), number)


def _why_lost(job: LocalJob) -> str:
    supervisor = job.supervisor
    if supervisor is None:
        return f"{job.folder.name} never recorded a process"
    if os.path.exists(f"/proc/{supervisor.pid}"):
        return f"the job of {job.folder.name} is gone and its pid {supervisor.pid} is another process now"
    return f"the process {supervisor.pid} of {job.folder.name} is gone without having recorded its end"


def _verified_group(job: LocalJob) -> int:
    """Process group of the job.

    The supervisor leads it; if the supervisor is gone, the job's own process still belongs to it.
    """
    record = job.record
    if record.host != socket.gethostname():
        raise CommandError(f"{record.id} runs on the machine {record.host!r}; cancel it there")
    supervisor = job.supervisor
    if supervisor is None:
        raise CommandError(f"{record.id} has not recorded its process yet; try again")
    for process in _ours(job, record.token):
        if os.getpgid(process.pid) == supervisor.pid:
            return supervisor.pid
    raise CommandError(
        f"refused: the process {supervisor.pid} that runs now is not the one that wf started for {record.id} "
        "(token or process group differ); nothing was signalled"
    )


def _ours(job: LocalJob, token: str) -> Iterator[ProcessIdentity]:
    for process in (job.supervisor, job.child):
        if process is not None and is_alive(process) and carries_token(process.pid, token):
            yield process
