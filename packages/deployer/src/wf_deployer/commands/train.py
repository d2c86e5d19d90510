"""`wf train`: one training stage as a background job."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

STAGES = {
    "1": ("stage1", "stage1_subln"),
    "1.5": ("stage1_5", "stage1_5_calibrate"),
    "1.9": ("stage1_9", "stage1_9_layerwise"),
    "2": ("stage2", "stage2_pretrain"),
}
"""What the user types -> the stage's name and its Hydra option of the group `training`."""


class StageOption(StrEnum):
    one = "1"
    one_five = "1.5"
    one_nine = "1.9"
    two = "2"


def train(
    stage: Annotated[
        StageOption,
        typer.Option(
            "-s",
            "--stage",
            help="1 convert, 1.5 calibrate the ternary weights, 1.9 align the layers, 2 pre-train.",
        ),
    ],
    experiment: Annotated[
        str, typer.Option("-e", "--experiment", help="Name that the stages share.")
    ] = "default",
    cloud: Annotated[str, typer.Option(help="Where to run: local.")] = "local",
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
    from wf_deployer.errors import CommandError
    from wf_deployer.processes import run_foreground

    if cloud != "local":
        raise CommandError(f"--cloud {cloud!r} comes later; only local is there now")
    overrides = list(overrides or ())
    for argument in overrides:
        if "=" not in argument and not argument.startswith("~"):
            raise CommandError(f"{argument!r} is no Hydra override; give key=value")
    command = training_command(stage.value, experiment, overrides)
    if foreground:
        raise typer.Exit(run_foreground(command))
    _start_job(stage.value, experiment, overrides, command)


def training_command(stage: str, experiment: str, overrides: list[str]) -> list[str]:
    """The trainer's command line for a stage as the user types it (`1`, `1.5`, `1.9`, `2`)."""
    from wf_deployer.workspace import script_command

    own = [f"training={STAGES[stage][1]}", f"experiment={experiment}"]
    return [*script_command("train"), *own, *overrides]


def _start_job(stage: str, experiment: str, overrides: list[str], command: list[str]) -> None:
    from wf_deployer.jobs.launch import launch
    from wf_deployer.jobs.record import JobSpec, new_job_id

    name = STAGES[stage][0]
    output = dict(text.split("=", 1) for text in overrides if "=" in text).get("output_dir", "outputs")
    job = launch(
        JobSpec(
            id=new_job_id(name),
            kind="train",
            stage=name,
            experiment=experiment,
            command=command,
            cwd=str(Path.cwd()),
            run_folder=str(Path(output).resolve() / experiment / name),
        )
    )
    typer.echo(f"started {job.folder.name}")
    typer.echo(f"  results  {job.spec.run_folder}")
    typer.echo(f"  follow   wf logs -f {job.folder.name}")
    typer.echo(f"  stop     wf cancel {job.folder.name}")
