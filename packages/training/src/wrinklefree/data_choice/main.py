"""The command line: one module of `commands` per sub-command."""

from __future__ import annotations

import os

import typer
from typer.core import TyperGroup

from wf_formats.boundary import Framed
from wrinklefree.data_choice.commands import dedup, mix, score, select


class Application(Framed, TyperGroup):
    """Its commands raise what the user can mend; the frame around them says it in one line."""

    stopped = "stopped; score and mix go on from here with the same command, the others begin anew"


app = typer.Typer(
    cls=Application,
    name="wrinklefree.data_choice",
    help="Choose the text to train on: without copies, by influence on a probe, in a mixture that pays.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (dedup.dedup, score.score, select.select, mix.mix):
    app.command()(_command)


def main() -> None:
    """Entry of `python -m wrinklefree.data_choice`."""
    app(prog_name=os.environ.get("WF_PROG", "python -m wrinklefree.data_choice"))
