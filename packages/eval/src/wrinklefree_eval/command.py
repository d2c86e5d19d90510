"""How the functions of this package become command lines."""

from __future__ import annotations

import typer
from typer.core import TyperCommand

from wf_formats.boundary import Framed


class FramedCommand(Framed, TyperCommand):
    """What its user can mend is one line."""


def new_app() -> typer.Typer:
    """For one command, with `cls=FramedCommand`."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False)
