"""What a rendering may come to besides text, by the name that stands in the worker's reply."""

from __future__ import annotations

from wf_formats.errors import UserError
from wf_formats.printable import printable


class ChatTemplateError(UserError, ValueError):
    """The template is damaged or refuses the messages; the message says why.

    The words may be the template's own, which come from anywhere: what a terminal would obey is written out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, None))


class TemplateDamagedError(ChatTemplateError):
    """It is no Jinja template."""


class TemplateUnfitError(ChatTemplateError):
    """It refuses these messages, or fails on them."""


class TemplateTooCostlyError(ChatTemplateError):
    """It goes beyond the limits of time, memory or text."""


KINDS: dict[str, type[ChatTemplateError]] = {
    kind.__name__: kind for kind in (TemplateDamagedError, TemplateUnfitError, TemplateTooCostlyError)
}
