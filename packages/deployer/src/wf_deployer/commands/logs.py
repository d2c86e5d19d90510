"""`wf logs`: what a background job prints."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

_POLL_S = 0.3


def logs(
    run: Annotated[
        str | None, typer.Argument(help="Job id or its beginning; the newest if left out.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    lines: Annotated[int | None, typer.Option("-n", min=1, help="Only the last so many lines.")] = None,
) -> None:
    """Show a job's log.

    Example: wf logs -f
    """
    from wf_deployer.files import last_lines
    from wf_deployer.jobs.record import find_job

    job = find_job(run)
    position = 0
    if lines is not None:
        position = job.log.stat().st_size
        typer.echo("\n".join(last_lines(job.log, lines)))
    try:
        position = _copy(job, position)
        if follow:
            _follow(job, position)
    except KeyboardInterrupt:
        typer.echo(f"\n{job.folder.name} goes on in the background", err=True)


def _follow(job: Any, position: int) -> None:
    from wf_deployer.jobs.record import JobState

    while job.state in (JobState.running, JobState.starting):
        time.sleep(_POLL_S)
        position = _copy(job, position)
    _copy(job, position)
    end = job.exit
    code = f", exit code {end.returncode}" if end else ""
    typer.echo(f"{job.folder.name}: {job.state}{code}", err=True)


def _copy(job: Any, position: int) -> int:
    """Writes the log from a byte position on; returns the new position."""
    with job.log.open("rb") as log:
        log.seek(position)
        data = log.read()
    sys.stdout.write(data.decode("utf-8", errors="replace"))
    sys.stdout.flush()
    return position + len(data)
