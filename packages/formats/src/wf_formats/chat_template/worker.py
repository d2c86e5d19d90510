"""`python -m wf_formats.chat_template.worker SECONDS`: renders templates from stdin to stdout within limits.

A line in: {"source": ..., "values": {...}}. A line out: {"text": ...} or {"kind": ..., "reason": ...} (the
kinds of `replies.py`). The limits are those of `wf_formats.limited_worker`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jinja2

from wf_formats.chat_template.environment import new_environment
from wf_formats.chat_template.limits import TEXT_CHARS
from wf_formats.chat_template.replies import (
    ChatTemplateError,
    TemplateDamagedError,
    TemplateTooCostlyError,
    TemplateUnfitError,
)
from wf_formats.limited_worker import MEMORY_BYTES, answer_lines


def main() -> None:
    """Answer until stdin ends."""
    answer_lines(_answer, _told(_fault(MemoryError())))


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        return {"text": _render(request["source"], request["values"])}
    except Exception as error:  # noqa: BLE001 - a template is anybody's program, whatever it raises is its own
        return _told(_fault(error))


def _told(fault: ChatTemplateError) -> dict[str, str]:
    return {"kind": type(fault).__name__, "reason": str(fault)[:1000]}


def _render(source: str, values: dict[str, Any]) -> str:
    text = _compiled(source).render({"tools": None, "documents": None, **values})
    text.encode()
    if len(text) > TEXT_CHARS:
        raise TemplateTooCostlyError(
            f"the chat template writes {len(text)} characters, at most {TEXT_CHARS} are allowed"
        )
    return text


def _fault(error: Exception) -> ChatTemplateError:
    """What a rendering came to, in words."""
    match error:
        case ChatTemplateError():
            return error
        case MemoryError():
            _compiled.cache_clear()
            return TemplateTooCostlyError(f"the chat template needs more than {MEMORY_BYTES >> 20} MB")
        case RecursionError() | OverflowError():
            return TemplateTooCostlyError(
                f"the chat template goes beyond the limits of the language: {error}"
            )
        case UnicodeEncodeError():
            return TemplateUnfitError(f"the chat template writes half a surrogate pair at {error.start}")
        case NameError() if error.name in ("inf", "nan"):  # so Jinja's compiler writes it into its program
            return TemplateUnfitError(
                "the chat template has a number beyond those of floating point (1.8e308)"
            )
        case jinja2.TemplateError():
            return TemplateUnfitError(f"the chat template refuses these messages: {error}")
        case _:
            return TemplateUnfitError(
                f"the chat template refuses these messages: {error} ({type(error).__name__})"
            )


@lru_cache(maxsize=4)
def _compiled(source: str) -> jinja2.Template:
    try:
        return new_environment().from_string(source)
    except (jinja2.TemplateError, SyntaxError) as error:
        raise TemplateDamagedError(f"the chat template is damaged: {error}") from error


if __name__ == "__main__":
    main()
