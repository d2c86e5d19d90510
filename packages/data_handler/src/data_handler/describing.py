"""How a value of the data is described in a message: one line, not long."""

from __future__ import annotations

SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """A value for a message: one line, not long."""
    text = repr(value[: 2 * SHOWN_CHARACTERS] if isinstance(value, str | bytes | list) else value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def one_line(error: BaseException) -> str:
    """What another library says, for a message."""
    return " ".join(str(error).split())[:300]


def kind_of(value: object) -> str:
    """`int (12)`, `NoneType`, `list ([1, 2])`."""
    name = type(value).__name__
    return name if value is None else f"{name} ({shown(value)})"
