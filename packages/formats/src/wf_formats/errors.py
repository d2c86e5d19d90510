"""The errors that users can act on: one base for the workspace, and those of this package."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Something the user can mend; the message is one line with the offending value and the fix.

    The boundary of an application (boundary.py) prints it instead of a traceback. Every package's own
    error inherits from it, beside the built-in error that callers of a library expect.
    """

    exit_code = 1
    """2 for a wrong request (nothing was begun), 1 for a run that failed."""
    label = "error"
    """What the line begins with."""


class RequestError(UserError, ValueError):
    """A wrong request: an option, a value, a target; nothing was begun or changed."""

    exit_code = 2


class LoadError(UserError, ValueError):
    """A model cannot run here as it is; the message names the part, the reason and the remedy."""


class FormatError(UserError, ValueError):
    """Something cannot be written in a format without losing information; the message says what and why."""


class NotFiniteError(UserError, ValueError):
    """Weights, activations or gradients hold NaN or infinity; the message says which row of what."""


def reason_of(error: Exception | str, path: Path) -> str:
    """An error's words for a place that names the path already: without it at their beginning.

    `PATH: why`, `PATH/FILE: why` and `PATH is so` become `why`, `FILE: why` and `it is so`.
    """
    words = str(error)
    if words.startswith(f"{path} "):
        return f"it {words.removeprefix(f'{path} ')}"
    return words.removeprefix(f"{path}: ").removeprefix(f"{path}/")
