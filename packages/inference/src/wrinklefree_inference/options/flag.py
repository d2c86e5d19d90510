"""What makes a field an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass

KEY_HINT = "On a machine with others (command lines can be read by all) better $WF_API_KEY"


@dataclass(frozen=True)
class Flag:
    """Makes a field an option of the command line, in its annotation: `Annotated[int, Flag("--port", ...)]`.

    Attributes:
        minimum, maximum: Bounds of a number.
        envvar: Variable that gives the value where the flag does not.
    """

    flag: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    envvar: str | None = None

    @property
    def name(self) -> str:
        """Parameter of the command."""
        return self.flag.removeprefix("--").replace("-", "_")
