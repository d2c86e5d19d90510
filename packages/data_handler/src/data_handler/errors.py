"""The one error of this package."""

from __future__ import annotations

from wf_formats.errors import UserError


class DataError(UserError, ValueError):
    """The user's data or data settings are at fault.

    The message names the file and the line or record (counted from 1), what was found there, and
    what to do about it. It takes one string, so torch can raise it again from a worker process.
    """
