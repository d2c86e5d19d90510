"""`wf train`: one training stage as a background job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wf_deployer.backends.base import JobSpec

TRAINER = [sys.executable, "-m", "wrinklefree.train"]


def train(
    stage: Annotated[
        str,
        typer.Option("-s", "--stage", help="Stage: 1, 1.5, ...; a wrong one lists them all."),
    ],
    experiment: Annotated[
        str | None, typer.Option("-e", "--experiment", help="Name that the stages share.")
    ] = None,
    cloud: Annotated[str, typer.Option(help="Back end that runs the job.")] = "local",
    foreground: Annotated[bool, typer.Option("--foreground", help="In this terminal, not as a job.")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, key=value.")] = None,
) -> None:
    """Run a training stage as a background job that survives the terminal.

    Each stage starts from the result of the previous stage of the same experiment.

    Examples:

    wf train -s 1 -e mine

    wf train -s 1.5 -e mine training.ternarize.distil_steps=60

    wf train -s 2 -e mine model=smollm2_135m training.max_steps=200

    wf train -s 2 -e mine --foreground training.learning_rate=1e-4
    """
    from wf_deployer.backends.registry import open_backend
    from wf_deployer.processes import become
    from wf_formats.overrides import override

    backend = open_backend(cloud)
    named = [] if experiment is None else [override("experiment", experiment)]
    arguments = ["-s", stage, *named, *(overrides or ())]
    if foreground:
        become([*TRAINER, *arguments])
    job = job_spec(describe(arguments), [*TRAINER, *arguments])
    backend.submit(job)
    typer.echo(f"started {job.id}")
    typer.echo(f"  results  {job.run_folder}")
    typer.echo(f"  follow   wf logs -f {job.id}")
    typer.echo(f"  stop     wf cancel {job.id}")


def describe(arguments: list[str]) -> dict[str, Any]:
    """What the trainer makes of these arguments: {"stage", "experiment", "run_folder"}.

    Raises:
        typer.Exit: the configuration is wrong; the trainer has said so, and its exit code is ours.
    """
    import json
    import subprocess

    done = subprocess.run(
        [*TRAINER, "--describe", *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise typer.Exit(done.returncode)
    described: dict[str, Any] = json.loads(done.stdout)
    return described


def job_spec(described: dict[str, Any], command: list[str]) -> JobSpec:
    """The job of a described run, in this folder."""
    from wf_deployer.backends.base import JobSpec, new_job_id

    return JobSpec(
        id=new_job_id(described["stage"]),
        kind="train",
        stage=described["stage"],
        experiment=described["experiment"],
        command=command,
        cwd=str(Path.cwd()),
        run_folder=described["run_folder"],
    )
