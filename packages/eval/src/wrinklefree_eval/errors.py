"""The errors that users of the evaluation have to expect."""

from wf_formats.errors import UserError


class EvalError(UserError, ValueError):
    """The model, a text or a task cannot be used as asked; the message says why and what to do."""


class EvalRequestError(EvalError):
    """What was asked for cannot be meant: an option, a text or task that is not there; nothing was begun."""

    exit_code = 2
