"""The one exception that ends a command with a message instead of a traceback."""

from wf_formats.errors import UserError


class CommandError(UserError):
    """Something the user can act on; the message carries the offending value and the fix."""
