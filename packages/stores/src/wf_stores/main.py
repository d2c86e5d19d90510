"""The command line: one module of `commands` per sub-command."""

from __future__ import annotations

import os

import typer
from typer.core import TyperCommand, TyperGroup

from wf_formats.boundary import Framed
from wf_stores.commands import check, get, ls, put, rm


class Application(Framed, TyperGroup):
    """Its commands raise what the user can mend; the frame around them says it in one line."""

    stopped = "stopped; the same command goes on from here"


class Command(Framed, TyperCommand):
    """One of them."""

    stopped = Application.stopped


app = typer.Typer(
    cls=Application,
    name="wf_stores",
    help="Folders in gs://, s3:// or a path: complete and verified, or not there.\n\n"
    "Credentials are those of the environment and of each cloud's default files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (ls.ls, get.get, put.put, rm.rm, check.check):
    app.command(cls=Command)(_command)


def main() -> None:
    """Entry of `python -m wf_stores.main`."""
    app(prog_name=os.environ.get("WF_PROG", "python -m wf_stores.main"))


if __name__ == "__main__":
    main()
