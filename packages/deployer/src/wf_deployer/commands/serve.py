"""`wf serve --cloud`: a server on machines of others; without it all arguments are the application's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wf_deployer.applications import application_of
from wf_deployer.commands.applications import starting


def serve(
    ctx: typer.Context,
    cloud: Annotated[
        str | None, typer.Option(help="Who runs it: modal, sky (SkyPilot chooses), nebius, runpod, gcp, ...")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="GGUF file or exported folder of this machine, gs://, s3://, hub:OWNER/NAME."),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="GPUs of each copy: H100:1.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores of each copy.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Cheaper machines that may be taken away.")] = False,
    allow_gcp_gpu: Annotated[bool, typer.Option("--allow-gcp-gpu", help="GPUs on GCP too.")] = False,
    replicas: Annotated[
        str | None, typer.Option(help="Copies: 2, or 0-4 by demand. SkyPilot: 1, Modal: 0-1.")
    ] = None,
    qps: Annotated[
        float | None, typer.Option(help="SkyPilot: requests a second for which there is one copy more.")
    ] = None,
    idle: Annotated[
        str | None, typer.Option(help="Time without requests after which a copy too many ends: 15m.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print what would be launched, and launch nothing.")
    ] = False,
    options: Annotated[
        list[str] | None, typer.Argument(help="After --: options of wf serve, such as --context 8192.")
    ] = None,
) -> None:
    """Serve a model to OpenAI clients from rented machines, until `wf cancel`.

    Clients need the key: $WF_API_KEY here, on Modal a secret of it that has WF_API_KEY.

    Examples:

    wf serve --cloud nebius --model exports/mine.gguf --cpus 16 --replicas 2 --dry-run

    wf serve --cloud sky --model gs://my-bucket/exports/mine --cpus 16 --replicas 0-4 --qps 2

    wf serve --cloud modal --model hub:me/mine --cpus 16 --idle 5m
    """
    if cloud is None:
        starting(application_of("serve"))(ctx)
        return
    from wf_deployer.backends.base import JobSpec, Resources, new_job_id, seconds_of
    from wf_deployer.backends.record import refuse_secrets
    from wf_deployer.backends.registry import open_service_backend
    from wf_deployer.backends.service import check_server_options, service_of
    from wf_deployer.backends.submitting import submit
    from wf_deployer.errors import CommandRequestError

    backend = open_service_backend(cloud)
    if model is None:
        raise CommandRequestError("--model is missing: a GGUF file, an exported folder, gs://, s3:// or hub:")
    given = list(options or ())
    check_server_options(given, Path.cwd())
    resources = Resources(gpu, 1, spot, cpus, None, allow_gcp_gpu)
    idle_s = None if idle is None else seconds_of(idle, "--idle")
    refuse_secrets([*given, model], "whoever runs the machines stores this", "give it by environment")
    service = service_of(model, replicas, qps, idle_s, "0-1" if cloud == "modal" else "1")
    backend.check(resources)
    spec = JobSpec(
        id=new_job_id("serve"),
        kind="serve",
        stage="serve",
        experiment=service.label,
        command=given,
        cwd=str(Path.cwd()),
        cloud=cloud,
        resources=resources,
        service=service,
    )
    if dry_run:
        typer.echo(backend.preview(spec), nl=False)
        return
    submit(backend, spec)
    typer.echo(f"started {spec.id}")
    typer.echo("  address  wf runs, when it is ready")
    typer.echo(f"  follow   wf logs -f {spec.id}")
    typer.echo(f"  stop     wf cancel {spec.id}")
