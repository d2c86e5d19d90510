"""What an answer may be, as a grammar for llguidance (Lark's notation with JSON schemas inside).

    text          anything; where functions may be called, until a call's marker is written
    JSON          what a schema allows
    calls         a model's form of calls (`forms.py`), with arguments that fit their functions' schemas

Whatever an answer is, the end-of-text token is allowed only where it is complete. JSON is on one line: behind
a comma or a colon a space may be, and no other white space is, as a weak model would write it for ever
(llguidance's `whitespace_pattern` may come any number of times, so it bounds nothing). Arguments have that
space always, as `json.dumps` writes them and models have learned to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrinklefree_inference.tool_calls.forms import ToolForm

_TEXT = r"(.|\n)*"
_CONTENT = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "coerce_one_of": True,
}
_ARGUMENTS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}


@dataclass(frozen=True)
class Function:
    """What may be called.

    Attributes:
        schema: Of its arguments, an object.
    """

    name: str
    schema: Mapping[str, Any]
    is_strict: bool = False


@dataclass(frozen=True)
class JsonContent:
    """Content that is JSON."""

    schema: Mapping[str, Any]
    is_strict: bool = False


def json_grammar(schema: Mapping[str, Any], is_strict: bool) -> str:
    """JSON of a schema alone; what it asks beyond llguidance's reach is refused only if it is strict."""
    return f"%llguidance {{}}\nstart: {_json(schema, is_strict, _CONTENT)}\n"


def calls_grammar(
    form: ToolForm,
    functions: Sequence[Function],
    *,
    is_required: bool,
    is_parallel: bool,
    content: JsonContent | None = None,
) -> str:
    """Calls of functions, or content too unless a call is required.

    Args:
        functions: At least one.
        is_parallel: Whether there may be several calls, where the form allows it.
        content: None lets it be any text.
    """
    rules = _rules_of_calls(form, functions, is_parallel)
    opening = _sequence(form.opening, form)
    whole = f"{_before(form)}{opening} calls"
    if is_required:
        rules.insert(0, f"start: {whole}")
    elif content is not None:
        rules.insert(0, f"start: {whole} | {_json(content.schema, content.is_strict, _CONTENT)}")
    else:
        rules[:0] = _text_or_calls(form)
    return "\n".join(["%llguidance {}", *rules, ""])


def _text_or_calls(form: ToolForm) -> list[str]:
    """Text, in which the marker begins calls: as a special token, or as soon as its last letter is there."""
    rest = _sequence(form.opening.removeprefix(form.marker), form)
    text, marker = f"TEXT: /{_TEXT}/", re.escape(form.marker)
    if form.marker in form.special:
        thought = _thought(form, "TEXT")
        called = f"TEXT <[{form.special[form.marker]}]>"
        return [f"start: {thought}(TEXT | {called} {rest} calls)", text]
    thought = _thought(form, "THOUGHT")
    head = f"head[lazy]: /{'' if form.leads else _TEXT}{marker}/"
    rules = [f"start: {thought}(TEXT | {_before(form)}head {rest} calls)", text, head]
    return [*rules, f"THOUGHT: /{_TEXT}/ & ~/{_TEXT}{marker}{_TEXT}/"] if thought else rules


def _thought(form: ToolForm, text: str) -> str:
    """What may come before content and calls; the prompt may have opened it already."""
    if form.thinking is None:
        return ""
    opening, closing = (form.special[name] for name in form.thinking)
    return f"(<[{opening}]>? {text} <[{closing}]>)? "


def _rules_of_calls(form: ToolForm, functions: Sequence[Function], is_parallel: bool) -> list[str]:
    between, closing = form.between, _sequence(form.closing, form)
    more = "" if between is None or not is_parallel else f" ({_sequence(between, form)} call)*"
    rules = [f"calls: call{more} {closing}".rstrip()]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(functions))))
    for i, function in enumerate(functions):
        arguments = _json(function.schema, function.is_strict, _ARGUMENTS)
        rules.append(f"call_{i}: {_sequence(function.name + form.middle, form)} {arguments}")
    return rules


def _before(form: ToolForm) -> str:
    """The special token that may come first."""
    index = form.special.get(form.before or "")
    return "" if index is None else f"<[{index}]>? "


def _sequence(text: str, form: ToolForm) -> str:
    """A text that is written so and not otherwise; special tokens in it are these tokens."""
    if not text:
        return ""
    if not form.special:
        return json.dumps(text)
    parts = re.split("(" + "|".join(map(re.escape, form.special)) + ")", text)
    return " ".join(f"<[{form.special[p]}]>" if p in form.special else json.dumps(p) for p in parts if p)


def _json(schema: Mapping[str, Any], is_strict: bool, options: Mapping[str, Any]) -> str:
    """`x-guidance` is llguidance's own key: what a client writes there is not taken over."""
    return "%json " + json.dumps({**schema, "x-guidance": {**options, "lenient": not is_strict}})
