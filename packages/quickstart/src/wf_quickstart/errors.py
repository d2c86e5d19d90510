"""The one exception that ends a quickstart with a message instead of a traceback."""

from wf_formats.errors import UserError


class QuickstartError(UserError):
    """Something the user can act on; the message carries the offending value and the fix."""
