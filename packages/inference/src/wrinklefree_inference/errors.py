"""The one error that users of an engine have to expect."""

from wf_formats.errors import UserError


class EngineError(UserError, RuntimeError):
    """A model could not be loaded or a server could not answer; the message says why and what to do."""
