"""The errors that end a run with a message instead of a traceback."""


class RunError(RuntimeError):
    """The run cannot start as asked; the message says why and what to do."""
