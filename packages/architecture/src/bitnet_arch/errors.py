"""The errors that users of checkpoints and sources have to expect."""

from wf_formats.errors import RequestError, UserError


class CheckpointError(UserError, ValueError):
    """A checkpoint folder is missing, incomplete or damaged; the message names the file."""


class SourceError(CheckpointError, RequestError):
    """A dense model cannot be started from; the message says why and what to load instead."""


class UnsupportedModelError(RequestError):
    """The model cannot be converted; the message lists what can."""
