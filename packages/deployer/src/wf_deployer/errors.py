"""The errors that end a command with a message."""

from wf_formats.errors import UserError


class CommandError(UserError):
    """Something the user can act on; the message carries the offending value and the fix."""


class CommandRequestError(CommandError):
    """A wrong request: nothing was begun."""

    exit_code = 2
