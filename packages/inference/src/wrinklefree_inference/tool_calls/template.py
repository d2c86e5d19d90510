"""What a chat template knows of tools, found by trying it on a conversation with a call.

    shows tools    the name of a function that is offered is in the text
    shows calls    a call of an earlier turn is, and in which form
    takes text     a call whose arguments are the beginning of an object, as a text, is shown too
    shows results  what the function returned is

What it does not show is written into ordinary turns instead (`history.py`), in the form of Hermes; so models
whose template knows no tools (SmolLM2 135M, Gemma 3, Phi-3) are asked in a widespread form. A template
that shows no calls is given no results either: it may write `tool` as any role, which says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wrinklefree_inference.tool_calls.forms import HERMES, ToolForm, form_in

Render = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str | None]
"""(messages, variables) -> text; None where the template refuses them. What else it raises ends the trial."""

_NAME, _RESULT = "trial_function", "trial_result"
_FUNCTION = {
    "name": _NAME,
    "description": "A trial",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "A number"}}},
}
_TOOLS = [{"type": "function", "function": _FUNCTION}]
_ASKED = {"role": "user", "content": "Hello"}
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": _NAME, "arguments": {"a": 1}}}
_CALLED = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_CUT = {**_CALLED, "tool_calls": [{**_CALL, "function": {"name": _NAME, "arguments": '{"a": '}}]}
_RETURNED = {"role": "tool", "tool_call_id": "abcdefghi", "name": _NAME, "content": _RESULT}


@dataclass(frozen=True)
class TemplateTools:
    """What a template does with tools.

    Attributes:
        form: How calls are written.
        variable: The name under which it finds tools; None where it shows none. `xml_tools` are the functions
            alone (SmolLM3).
        takes_text: Whether it shows a call that was cut short, whose arguments are a text.
        takes_system: Whether it takes a system message.
    """

    form: ToolForm
    variable: str | None
    shows_calls: bool
    shows_results: bool
    takes_text: bool
    takes_system: bool

    @classmethod
    def of(cls, render: Render) -> TemplateTools:
        """Try a template; a handful of renderings."""
        called = _text(render, [_ASKED, _CALLED], variables_for("tools", _TOOLS))
        shows_calls = _NAME in _text(render, [_ASKED, _CALLED], {})
        returned = _text(render, [_ASKED, _CALLED, _RETURNED], {}) if shows_calls else ""
        return cls(
            form=form_in(called, _NAME) if shows_calls else HERMES,
            variable=next((name for name in ("tools", "xml_tools") if _shows(render, name)), None),
            shows_calls=shows_calls,
            shows_results=_RESULT in returned,
            takes_text=_NAME in _text(render, [_ASKED, _CUT], {}),
            takes_system="trial_system" in _text(render, [_SYSTEM, _ASKED], {}),
        )

    def with_special(self, id_of: Callable[[str], int | None]) -> TemplateTools:
        """The same for a tokenizer, which says what id a special token has."""
        found = {name: id_of(name) for name in self.form.may_be_special}
        special = {name: index for name, index in found.items() if index is not None}
        return replace(self, form=self.form.with_special(special))


_SYSTEM = {"role": "system", "content": "trial_system"}


def variables_for(variable: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tools as a template finds them."""
    return {variable: [tool["function"] for tool in tools] if variable == "xml_tools" else list(tools)}


def _shows(render: Render, variable: str) -> bool:
    return _NAME in _text(render, [_ASKED], variables_for(variable, _TOOLS))


def _text(render: Render, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """Nothing where the template refuses the conversation."""
    return render(messages, variables) or ""
