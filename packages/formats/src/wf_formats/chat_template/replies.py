"""What a rendering may come to besides text, by the name that stands in the worker's reply."""

from __future__ import annotations

from wf_formats.errors import UserError


class ChatTemplateError(UserError, ValueError):
    """The template is damaged or refuses the messages; the message says why."""


class TemplateDamagedError(ChatTemplateError):
    """It is no Jinja template."""


class TemplateUnfitError(ChatTemplateError):
    """It refuses these messages, or fails on them."""


class TemplateTooCostlyError(ChatTemplateError):
    """It goes beyond the limits of time, memory or text."""


KINDS: dict[str, type[ChatTemplateError]] = {
    kind.__name__: kind for kind in (TemplateDamagedError, TemplateUnfitError, TemplateTooCostlyError)
}
