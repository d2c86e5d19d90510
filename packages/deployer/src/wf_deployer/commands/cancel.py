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
    from wf_deployer.backends.registry import find_job

    job = find_job(run)
    typer.echo(f"asking {job.id} to stop (up to {timeout:.0f} s)", err=True)
    state = job.backend.cancel(job.id, timeout, kill)
    typer.echo(f"{job.id}: {state}")
    if not state.is_over:
        typer.echo("it takes longer; look again with `wf runs`, or use --kill", err=True)
        raise typer.Exit(1)
