"""`wf train`: one training stage as a background job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wf_deployer.backends.base import JobSpec, Resources

TRAINER = [sys.executable, "-m", "wrinklefree.train"]


def train(
    stage: Annotated[
        str,
        typer.Option("-s", "--stage", help="Stage: 1, 1.5, ...; a wrong one lists them all."),
    ],
    experiment: Annotated[
        str | None, typer.Option("-e", "--experiment", help="Name that the stages share.")
    ] = None,
    cloud: Annotated[
        str, typer.Option(help="Back end that runs the job: local, slurm, modal, sky, nebius, runpod, ...")
    ] = "local",
    gpu: Annotated[
        str | None, typer.Option(help="GPUs of each node: H100:8, 8 (any kind), H100:8,H200:8.")
    ] = None,
    num_nodes: Annotated[int, typer.Option(help="Machines that train together.")] = 1,
    cpus: Annotated[int | None, typer.Option(help="Cores of each node.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit: 90m, 8h, 2d.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Cheaper machines that may be taken away.")] = False,
    allow_gcp_gpu: Annotated[bool, typer.Option("--allow-gcp-gpu", help="GPUs on GCP too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print what would be submitted, and submit nothing.")
    ] = False,
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

    wf train -s 2 -e mine --cloud slurm --gpu H100:8 --num-nodes 2 --dry-run

    wf train -s 2 -e mine --cloud modal --gpu H100:8 --time 12h

    wf train -s 2 -e mine --cloud nebius --gpu H100:8 --spot training.checkpoint.upload=gs://my-bucket/runs
    """
    from wf_deployer.backends.base import Resources, seconds_of
    from wf_deployer.backends.processes import distributed_overrides
    from wf_deployer.backends.registry import BACKENDS, ELSEWHERE, open_backend
    from wf_deployer.backends.submitting import submit
    from wf_deployer.errors import CommandRequestError
    from wf_deployer.processes import become
    from wf_formats.overrides import override

    backend = open_backend(cloud)
    time_s = None if time is None else seconds_of(time)
    resources = Resources(gpu, num_nodes, spot, cpus, time_s, allow_gcp_gpu)
    if foreground and (cloud != "local" or dry_run):
        other = "--dry-run" if dry_run else f"--cloud {cloud}"
        raise CommandRequestError(f"--foreground is this terminal, and {other} is not; leave one of them out")
    if allow_gcp_gpu and cloud in BACKENDS:
        raise CommandRequestError(f"--allow-gcp-gpu is SkyPilot's, not for --cloud {cloud}; leave it out")
    backend.check(resources)
    named = [] if experiment is None else [override("experiment", experiment)]
    given = [*named, *(overrides or ())]
    arguments = ["-s", stage, *given, *distributed_overrides(resources, given)]
    if foreground:
        become([*TRAINER, *arguments])
    described = describe(arguments, cloud in ELSEWHERE)
    if described.get("force") and cloud != "local":
        raise CommandRequestError(
            f"force=true with --cloud {cloud}: a job that begins again would begin from nothing; leave "
            "it out, or give another experiment=NAME"
        )
    job = job_spec(described, [*TRAINER, *arguments], cloud, resources)
    if dry_run:
        typer.echo(backend.preview(job), nl=False)
        return
    submit(backend, job)
    typer.echo(f"started {job.id}")
    typer.echo(f"  results  {backend.results(job)}")
    typer.echo(f"  follow   wf logs -f {job.id}")
    typer.echo(f"  stop     wf cancel {job.id}")


def describe(arguments: list[str], elsewhere: bool) -> dict[str, Any]:
    """What the trainer makes of these arguments: stage, experiment, run_folder; upload, start_from if any.

    Args:
        elsewhere: The job sees no file of this machine, so what it starts from is not looked for.
    Raises:
        typer.Exit: the configuration is wrong; the trainer has said so, and its exit code is ours.
    """
    import json
    import subprocess

    done = subprocess.run(
        [*TRAINER, "--describe", *(["--elsewhere"] if elsewhere else []), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise typer.Exit(done.returncode)
    described: dict[str, Any] = json.loads(done.stdout)
    return described


def job_spec(described: dict[str, Any], command: list[str], cloud: str, resources: Resources) -> JobSpec:
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
        upload=described.get("upload"),
        start_from=described.get("start_from"),
        cloud=cloud,
        resources=resources,
    )
