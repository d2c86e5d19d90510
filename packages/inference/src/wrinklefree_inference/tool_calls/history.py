"""Tools, calls and what they returned, as a model's chat template knows them.

A template that shows them gets them as transformers gives them: `tools`, `tool_calls` with arguments as
objects, turns of the role `tool`. For one that does not they become ordinary text, as Nous Hermes writes it:
the tools and how to call them in the system message (in the first user's turn where there can be none), calls
in the assistant's own words, what they returned in a turn of the user. Turns of the user that come to stand
one after another are joined: many templates want them to alternate with the assistant's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from wf_formats.errors import RequestError
from wrinklefree_inference.tool_calls.forms import MISTRAL_ID
from wrinklefree_inference.tool_calls.template import TemplateTools, variables_for

Turn = dict[str, Any]

_OFFER = """\
You may call one or more of the functions below to answer. Their signatures, one a line:
<tools>
{tools}
</tools>
To call a function, write an object with its name and its arguments between tags:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""


def for_template(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], template: TemplateTools
) -> tuple[list[Turn], dict[str, Any]]:
    """Messages and variables to render.

    Args:
        messages: OpenAI's, with the arguments of calls as objects and `content` a text throughout. The
            arguments of a call that was cut short are a text.
        tools: What may be called, OpenAI's; may be none.

    Raises:
        RequestError: A call was cut short, and the template takes objects alone.
    """
    turns = [dict(message) for message in messages]
    _name_results(turns)
    if template.form.short_ids:
        turns = [_with_short_ids(turn) for turn in turns]
    if template.shows_calls and not template.takes_text:
        _refuse_cut_calls(turns)
    if not template.shows_calls:
        turns = [_with_written_calls(turn, template) for turn in turns]
    if not template.shows_results:
        turns = _joined([_with_written_result(turn) for turn in turns])
    if not tools:
        return turns, {}
    if template.variable is None:
        return _with_offer(turns, tools, template.takes_system), {}
    return turns, variables_for(template.variable, tools)


def _refuse_cut_calls(turns: Sequence[Turn]) -> None:
    for call in (call for turn in turns for call in turn.get("tool_calls", ())):
        if isinstance(call["function"]["arguments"], str):
            called = f"{call['id']!r:.80} ({call['function']['name']})"
            raise RequestError(
                f"the arguments of the call {called} are no whole object of JSON, and the model's chat "
                "template takes objects alone: complete them, or leave the call out with its result"
            )


def _name_results(turns: list[Turn]) -> None:
    """Say in each result what was called: some templates want the name, clients send the id."""
    names: dict[str, str] = {}
    for turn in turns:
        names |= {call["id"]: call["function"]["name"] for call in turn.get("tool_calls", ())}
        if turn["role"] == "tool" and turn["tool_call_id"] in names:
            turn.setdefault("name", names[turn["tool_call_id"]])


def _with_short_ids(turn: Turn) -> Turn:
    if "tool_call_id" in turn:
        turn = turn | {"tool_call_id": _short_id(turn["tool_call_id"])}
    if "tool_calls" in turn:
        turn = turn | {"tool_calls": [call | {"id": _short_id(call["id"])} for call in turn["tool_calls"]]}
    return turn


def _short_id(call_id: str) -> str:
    """Nine letters and digits, the same for the same id: calls made elsewhere may have others."""
    is_short = MISTRAL_ID.fullmatch(call_id) is not None
    return call_id if is_short else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _with_written_calls(turn: Turn, template: TemplateTools) -> Turn:
    calls = turn.get("tool_calls")
    if not calls:
        return turn
    written = [
        template.form.written(call["function"]["name"], _written_arguments(call["function"]["arguments"]))
        for call in calls
    ]
    content = "\n".join([turn["content"], *written] if turn["content"] else written)
    return {"role": "assistant", "content": content}


def _written_arguments(arguments: Mapping[str, Any] | str) -> str:
    """Those of a call that was cut short stay as they are."""
    return arguments if isinstance(arguments, str) else _json(arguments)


def _with_written_result(turn: Turn) -> Turn:
    if turn["role"] != "tool":
        return turn
    return {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    joined: list[Turn] = []
    for turn in turns:
        if joined and turn["role"] == joined[-1]["role"] == "user":
            joined[-1] = joined[-1] | {"content": f"{joined[-1]['content']}\n{turn['content']}"}
        else:
            joined.append(turn)
    return joined


def _with_offer(turns: list[Turn], tools: Sequence[Mapping[str, Any]], takes_system: bool) -> list[Turn]:
    offer = _OFFER.format(tools="\n".join(_json(tool) for tool in tools))
    wanted = "system" if takes_system else "user"
    number = next((i for i, turn in enumerate(turns) if turn["role"] == wanted), None)
    if number is None:
        return [{"role": wanted, "content": offer}, *turns]
    own = turns[number]["content"]
    content = f"{own}\n\n{offer}" if takes_system else f"{offer}\n\n{own}"
    return [*turns[:number], turns[number] | {"content": content}, *turns[number + 1 :]]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
