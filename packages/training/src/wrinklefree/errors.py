"""The errors that end a run with a message instead of a traceback."""

from wf_formats.errors import UserError


class RunError(UserError, RuntimeError):
    """The run cannot start as asked; the message says why and what to do."""
