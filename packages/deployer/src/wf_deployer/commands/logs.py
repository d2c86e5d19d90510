"""`wf logs`: what a background job prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def logs(
    run: Annotated[
        str | None, typer.Argument(help="Job id or its beginning; the newest if left out.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    lines: Annotated[int | None, typer.Option("-n", min=1, help="Only this many of the last lines.")] = None,
) -> None:
    """Show a job's log.

    Example: wf logs -f
    """
    from wf_deployer.backends.registry import find_job

    job = find_job(run)
    try:
        for text in job.backend.logs(job.id, lines, follow):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        typer.echo(f"\n{job.id} goes on in the background", err=True)
        return
    if follow:
        end = job.status
        code = "" if end.exit_code is None else f", exit code {end.exit_code}"
        typer.echo(f"{job.id}: {end.state}{code}", err=True)
