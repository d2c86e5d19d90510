"""`wf cancel`: stop a background job."""

from __future__ import annotations

from typing import Annotated

import typer


def cancel(
    run: Annotated[str, typer.Argument(help="Job id or its beginning.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for it to stop by itself.")] = 120,
    kill: Annotated[bool, typer.Option("--kill", help="SIGKILL when the time is over.")] = False,
) -> None:
    """Stop a job: training writes a checkpoint and can be resumed with the same command.

    Only processes that wf itself started for this job are signalled.

    Example: wf cancel 20260102-030405-stage2-1a2b
    """
    from wf_deployer.jobs.cancel import cancel as cancel_job
    from wf_deployer.jobs.record import JobState, find_job

    job = find_job(run)
    typer.echo(f"asking {job.folder.name} to stop (up to {timeout:.0f} s)", err=True)
    state = cancel_job(job, timeout, kill)
    typer.echo(f"{job.folder.name}: {state}")
    if state in (JobState.running, JobState.starting):
        typer.echo("it takes longer; look again with `wf runs`, or use --kill", err=True)
        raise typer.Exit(1)
