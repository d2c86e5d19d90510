"""The command line: from a model to a chat with its 1.58-bit version, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from wf_formats.boundary import Framed
from wf_quickstart.options import DEFAULT_MINUTES, MIN_MINUTES, parse_options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class FramedCommand(Framed, TyperCommand):
    """What its user can mend is one line."""

    stopped = "stopped; the same command goes on from here"


@app.command(cls=FramedCommand)
def quickstart(
    model: Annotated[
        str, typer.Option(help="packaged (SmolLM2-135M-Instruct), hub:ID or path:FOLDER.")
    ] = "packaged",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=MIN_MINUTES,
            help="Time of the whole: the machine is measured, and calibration planned into what is left.",
            show_default=f"{DEFAULT_MINUTES:g}",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Instead of --minutes: steps of the distillation that ends the calibration.",
            show_default="planned",
        ),
    ] = None,
    distil: Annotated[
        bool,
        typer.Option(
            "--distil",
            help="Then distil all weights towards the original (stage 3), in a part of the time; with "
            "--steps as many steps again.",
        ),
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "outputs/quickstart"
    ),
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text to calibrate on, one or more: .txt; or .jsonl, .jsonl.gz, .parquet with the field "
            "`text`. A part is held out."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start over in the same folder.")] = False,
) -> None:
    """Convert a model to 1.58 bits, calibrate, export, prove and measure it, in 10 minutes.

    A report with plots is written to the output folder. Stopped or run twice, it goes on where it was.

    Examples:

    wf quickstart

    wf quickstart --minutes 30 --output outputs/longer

    wf quickstart --distil --minutes 60 --output outputs/distilled

    wf quickstart --steps 500 --output outputs/steps
    """
    from wf_quickstart.run import run_quickstart

    run_quickstart(parse_options(model, steps, output, text or [], minutes, distil), force)
