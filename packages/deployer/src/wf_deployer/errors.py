"""The one exception that ends a command with a message instead of a traceback."""


class CommandError(Exception):
    """Something the user can act on; the message carries the offending value and the fix."""
