"""`wf eval --cloud`: an evaluation as a job; `--results`: its table. Without them it is the application's."""

from __future__ import annotations

from typing import Annotated

import typer

from wf_deployer.applications import application_of
from wf_deployer.commands.applications import starting

REPORT = "report.json"
"""What the evaluation leaves, and shows."""


def evaluate(
    ctx: typer.Context,
    cloud: Annotated[
        str | None,
        typer.Option(
            help="Who runs it: slurm, modal, sky (SkyPilot chooses), nebius, ..., local (a job here)."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Where results go: gs://BUCKET/PREFIX, s3://...; Slurm, local: a folder."),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="One GPU: H100:1; for models that PyTorch runs.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit: 90m, 8h.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="A cheaper machine that may be taken away.")] = False,
    allow_gcp_gpu: Annotated[bool, typer.Option("--allow-gcp-gpu", help="GPUs on GCP too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print what would be submitted, and submit nothing.")
    ] = False,
    results: Annotated[
        str | None, typer.Option(metavar="RUN", help="Fetch the results of a job, and print its table.")
    ] = None,
) -> None:
    """Measure a model as a job: on a cluster, on rented machines, or in the background here.

    Further options are those of `wf eval` without --cloud. --model-path and --text may be gs://, s3:// or
    hub:OWNER/NAME too, which the machine fetches; files of this machine are sent.

    Examples:

    wf eval --cloud nebius --model-path exports/mine.gguf --text wiki.txt --cpus 16 --output gs://my-bucket/evals

    wf eval --cloud modal --model-path hub:me/mine --tasks piqa,arc_easy --data-dir data --gpu L4:1

    wf eval --results 20260102-030405-eval-1a2b
    """
    from wf_deployer.commands.elsewhere import Asked, show_results, submit_job

    application = application_of("eval")
    if results is not None:
        show_results(ctx, application, results, REPORT)
    if cloud is None:
        starting(application)(ctx)
        return
    submit_job(application, ctx.args, Asked(cloud, gpu, cpus, time, spot, allow_gcp_gpu, output, dry_run))
