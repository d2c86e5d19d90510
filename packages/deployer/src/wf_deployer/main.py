"""The `wf` command line: the table of applications, and a module of `commands` for each own command.

The command modules import only the standard library and typer; everything else is imported when a
command runs, so that help answers at once.
"""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from wf_deployer.commands import applications, cancel, logs, runs, train
from wf_formats.boundary import Framed


class FramedGroup(Framed, TyperGroup):
    """What the user of a command can mend is one line; applications tell their own errors."""


app = typer.Typer(
    name="wf",
    cls=FramedGroup,
    help="From your own language model to a served and evaluated 1.58-bit one.",
    epilog="Start here: wf quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
applications.register(app)
app.command("train")(train.train)
app.command("runs")(runs.runs)
app.command("logs")(logs.logs)
app.command("cancel")(cancel.cancel)
