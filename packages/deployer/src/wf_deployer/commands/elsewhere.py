"""Jobs of applications that read files and leave results (backends/work.py): submitting, and showing them.

The application answers `--describe` and its own arguments with one JSON object; see docs/extending.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import typer

from wf_deployer.applications import PROGRAM_VARIABLE, Application, become_showing


@dataclass(frozen=True)
class Asked:
    """Options of `wf` itself."""

    cloud: str
    gpu: str | None
    cpus: int | None
    time: str | None
    spot: bool
    allow_gcp_gpu: bool
    output: str | None
    dry_run: bool


def submit_job(application: Application, arguments: Sequence[str], asked: Asked) -> None:
    """Raises: CommandRequestError for what cannot be; nothing was begun then.

    Args: arguments: The application's.
    """
    from wf_deployer.backends.base import JobSpec, Resources, new_job_id, seconds_of
    from wf_deployer.backends.record import refuse_secrets
    from wf_deployer.backends.registry import BACKENDS, open_backend
    from wf_deployer.backends.submitting import submit
    from wf_deployer.backends.work import check_inputs
    from wf_deployer.errors import CommandRequestError

    cloud = asked.cloud
    backend = open_backend(cloud)
    time_s = None if asked.time is None else seconds_of(asked.time)
    resources = Resources(asked.gpu, 1, asked.spot, asked.cpus, time_s, asked.allow_gcp_gpu)
    if resources.num_processes > 1:
        raise CommandRequestError(
            f"--gpu {asked.gpu}: wf {application.name} is one process; give one, KIND:1"
        )
    if asked.allow_gcp_gpu and cloud in BACKENDS:
        raise CommandRequestError(f"--allow-gcp-gpu is SkyPilot's, not for --cloud {cloud}; leave it out")
    backend.check(resources)
    refuse_secrets(arguments, "whoever runs the job stores this", "give it by environment")
    job_id, cwd = new_job_id(application.name), str(Path.cwd())
    upload = backend.output_of(job_id, asked.output, cwd)
    described = _described(application, arguments)
    if resources.gpus is not None and not described["on_gpu"]:
        raise CommandRequestError(
            f"--gpu {asked.gpu}: {described['label']} runs on CPUs; leave it out, or give a model of "
            "PyTorch (a checkpoint, an exported folder)"
        )
    check_inputs(described["inputs"])
    spec = JobSpec(
        id=job_id,
        kind=application.name,
        stage=application.name,
        experiment=described["label"],
        command=[sys.executable, "-m", *application.command, *described["arguments"]],
        cwd=cwd,
        upload=upload,
        cloud=cloud,
        resources=resources,
        inputs=described["inputs"],
    )
    if asked.dry_run:
        typer.echo(backend.preview(spec), nl=False)
        return
    submit(backend, spec)
    typer.echo(f"started {spec.id}")
    typer.echo(f"  results  wf {application.name} --results {spec.id}")
    typer.echo(f"  follow   wf logs -f {spec.id}")
    typer.echo(f"  stop     wf cancel {spec.id}")


def show_results(ctx: typer.Context, application: Application, run: str, file: str) -> NoReturn:
    """Fetches a job's results, unless they are here and whole, and becomes what shows a file of them.

    Args: ctx: Of the command, which has no further option.

    Raises: CommandError where there are none (yet).
    """
    from wf_deployer.backends.fetched import results_of
    from wf_deployer.backends.registry import find_job
    from wf_deployer.errors import CommandRequestError

    given = [option for option in ctx.command.params if ctx.params[str(option.name)] not in (None, False)]
    if others := [option.opts[0] for option in given if option.name != "results"] + ctx.args:
        raise CommandRequestError(f"--results is of a job that was submitted; leave {' '.join(others)} out")
    job = find_job(run)
    if job.record.kind != application.name:
        raise CommandRequestError(f"{job.id} is a job of wf {job.record.kind}, not of wf {application.name}")
    folder = results_of(job)
    sys.stderr.write(f"{folder}\n")
    become_showing(application, str(folder / file))


def _described(application: Application, arguments: Sequence[str]) -> dict[str, Any]:
    """What the application makes of its arguments.

    Raises:
        typer.Exit: they are wrong; it has said so, and its exit code is ours.
    """
    command = [sys.executable, "-m", *application.command, "--describe", *arguments]
    environment = os.environ | {PROGRAM_VARIABLE: f"wf {application.name}"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise typer.Exit(done.returncode)
    described: dict[str, Any] = json.loads(done.stdout)
    return described
