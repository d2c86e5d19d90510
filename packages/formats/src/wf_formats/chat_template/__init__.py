"""Chat templates, rendered as transformers renders them, without transformers and within limits.

A template is a program that comes with a model from anywhere. Jinja's sandbox keeps it from reaching out, but
not from counting to 10^10 or making strings of as many characters, for which there are too many ways to list
(products, widths, joins, nested lists that print as 2^40 items). So it runs in a process of its own
(`worker.py`, one for all templates, started with the first and gone with this process), whose memory and
computing time the system limits:

    ChatTemplate(source, special_tokens)   compiled, and tried on one message
    .render(messages)                      text

Cost: 0.2 s for the first template, 0.1 ms for each rendering beside Jinja itself; it blocks, so an event loop
hands it to a thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from wf_formats.chat_template.process import RENDERER
from wf_formats.chat_template.replies import ChatTemplateError, TemplateTooCostlyError, TemplateUnfitError

__all__ = [
    "RESERVED_VARIABLES",
    "ChatTemplate",
    "ChatTemplateError",
    "TemplateTooCostlyError",
    "TemplateUnfitError",
    "stop_rendering",
]

RESERVED_VARIABLES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"}
    | {f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")}
    | {"raise_exception", "strftime_now", "namespace", "range", "dict", "lipsum", "cycler", "joiner"}
)
"""Names with a meaning of their own in templates: no variable of a request may stand in their place."""
_TRIAL = [{"role": "user", "content": "Hello"}]


class ChatTemplate:
    """A template that is no program without end."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], is_tried: bool = False):
        """Args:
            special_tokens: what templates know as `bos_token`, `eos_token`, ...
            is_tried: it was found good before; the process is started and not waited for.

        Raises:
            ChatTemplateError: `source` is not a Jinja template.
            TemplateTooCostlyError: a conversation of one word is beyond the limits already.
        """
        self._source, self._special_tokens = source, dict(special_tokens)
        if is_tried:
            RENDERER.start()
            return
        with suppress(TemplateUnfitError):  # it may want a system message: that is for the request to say
            self.render(_TRIAL)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        tools: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: JSON-like: {"role": ..., "content": ...}.
            add_generation_prompt: append what begins the assistant's turn.
            variables: what the template may know besides (`enable_thinking`), JSON-like; none of
                `RESERVED_VARIABLES`.
            tools: what may be called, by the names under which the template looks for it (`tools`).

        Raises:
            ChatTemplateError: the template refuses the messages or fails on them.
            TemplateTooCostlyError: it computes too long, or wants too much memory or text.
        """
        variables = variables or {}
        if taken := RESERVED_VARIABLES & variables.keys():
            raise ChatTemplateError(
                f"{min(taken)} is no variable to be set: the chat template has it already"
            )
        own = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return RENDERER.render(self._source, {**variables, **(tools or {}), **self._special_tokens, **own})


def stop_rendering() -> None:
    """End what is being rendered, with an error to who waits for it; a program that ends need not wait."""
    RENDERER.close()
