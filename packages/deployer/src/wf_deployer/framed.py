"""The frame around the commands of this package."""

from typer.core import TyperGroup

from wf_formats.boundary import Framed


class FramedGroup(Framed, TyperGroup):
    """What the user of a command can mend is one line; applications tell their own errors."""
