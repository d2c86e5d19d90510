"""The `wf` command line: the table of applications, and a module of `commands` for each own command.

The command modules import only the standard library and typer; everything else is imported when a
command runs, so that help answers at once.
"""

from __future__ import annotations

import typer

from wf_deployer.commands import applications, cancel, doctor, evaluate, logs, runs, serve, train
from wf_deployer.framed import FramedCommand, FramedGroup

app = typer.Typer(
    name="wf",
    cls=FramedGroup,
    help="From your own language model to a served and evaluated 1.58-bit one.",
    epilog="Start here: wf quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
applications.register(app, {"serve": serve.serve, "eval": evaluate.evaluate})
app.command("train", cls=FramedCommand)(train.train)
app.command("runs", cls=FramedCommand)(runs.runs)
app.command("logs", cls=FramedCommand)(logs.logs)
app.command("cancel", cls=FramedCommand)(cancel.cancel)
app.command("doctor", cls=FramedCommand)(doctor.doctor)
