"""The frame around the commands of this package."""

from typer.core import TyperCommand, TyperGroup

from wf_formats.boundary import Framed


class FramedGroup(Framed, TyperGroup):
    """What the user of a command can mend is one line; applications tell their own errors."""


class FramedCommand(Framed, TyperCommand):
    """A command that parses its own arguments."""
