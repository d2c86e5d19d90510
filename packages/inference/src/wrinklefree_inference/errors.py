"""The one error that users of an engine have to expect."""


class EngineError(RuntimeError):
    """A model could not be loaded or a server could not answer; the message says why and what to do."""
