"""The command line out of its commands: one module of `commands` each, imported when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

import typer
from typer.core import TyperCommand, TyperGroup

from wf_formats.boundary import Framed

COMMANDS = ("chat", "run", "serve", "gateway", "bench")
"""Names of modules, and of the command in each."""


class Application(Framed, TyperGroup):
    """Its commands raise what the user can mend; the frame around them says it in one line."""


class Command(Framed, TyperCommand):
    """One of them."""


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with some commands."""
    app = typer.Typer(
        cls=Application,
        name="wrinklefree_inference",
        help="Chat with a model, or serve it to OpenAI clients.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_nothing)
    for name in names:
        module = import_module(f"wrinklefree_inference.commands.{name}")
        app.command(name, cls=Command)(getattr(module, name))
    return app


def main(program: str) -> None:
    """Runs the command that this process was started with; if it is named first, no other is imported."""
    first = sys.argv[1:2]
    application(first if set(first) & set(COMMANDS) else COMMANDS)(prog_name=program)


def _nothing() -> None:
    """So that typer takes a single command for one of several: its name comes first."""
