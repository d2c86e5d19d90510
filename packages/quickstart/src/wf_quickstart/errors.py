"""The errors that end a quickstart with a message instead of a traceback."""

from wf_formats.errors import UserError


class QuickstartError(UserError):
    """Something the user can act on; the message carries the offending value and the fix."""


class QuickstartRequestError(QuickstartError):
    """A wrong request: nothing was begun or changed."""

    exit_code = 2
