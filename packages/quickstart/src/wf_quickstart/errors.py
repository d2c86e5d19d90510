"""The one exception that ends a quickstart with a message instead of a traceback."""


class QuickstartError(Exception):
    """Something the user can act on; the message carries the offending value and the fix."""
