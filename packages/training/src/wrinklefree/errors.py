"""The errors that end a run with a message instead of a traceback."""

from wf_formats.errors import UserError


class RunError(UserError, RuntimeError):
    """The run cannot start as asked; the message says why and what to do."""


class DivergedError(UserError, FloatingPointError):
    """A value of the run is infinite or no number; the message names it."""
