"""How functions become command lines: parsed by typer, errors told by `wf_formats.boundary`."""

from __future__ import annotations

import os
from collections.abc import Callable

import typer
from rich.console import Console
from typer.core import TyperCommand

from wf_formats.boundary import Framed

console = Console(stderr=True, markup=False)
"""Everything but the results, which go to stdout."""


class FramedCommand(Framed, TyperCommand):
    """What its user can mend is one line."""


def command_line(command: Callable[..., None]) -> typer.Typer:
    """The command line of a function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=FramedCommand)(command)
    return app


def run(command: Callable[..., None], name: str) -> None:
    """Runs it with this process's arguments.

    Args:
        name: in help and errors, unless WF_PROG gives another.
    """
    command_line(command)(prog_name=os.environ.get("WF_PROG", name))
