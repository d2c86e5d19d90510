"""Whether calls and results of a conversation belong together, as OpenAI's API asks of it.

A result names a call before it, and every call has one. Where in between it comes is left open, and so are
further results of a call. Ollama's messages need no ids, so they are not looked at (`ollama_messages.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wrinklefree_inference.http.chat_requests import ChatMessage
from wrinklefree_inference.http.errors import invalid


@dataclass(frozen=True)
class CallOrResult:
    """One of them; `place` is the field that has its id."""

    place: str
    id: str
    is_call: bool


def check_results(steps: Iterable[CallOrResult]) -> None:
    """Check a conversation, in its order.

    Raises:
        ApiError: 400, which names the first result without a call, or call with the id of one that has no
            result yet, else the first call without a result.
    """
    known: set[str] = set()
    waiting: dict[str, str] = {}
    for step in steps:
        if step.is_call:
            if step.id in waiting:
                reason = f"a call before it has the id {step.id!r:.80} too, and no result"
                raise invalid(f"{step.place}: {reason}", step.place, "invalid_value")
            known.add(step.id)
            waiting[step.id] = step.place
        elif step.id not in known:
            reason = f"no call before it has the id {step.id!r:.80}: send what the assistant called too"
            raise invalid(f"{step.place}: {reason}", step.place, "invalid_value")
        else:
            waiting.pop(step.id, None)
    for id_, place in waiting.items():
        reason = f"the call {id_!r:.80} has no result: send what it returned, or leave it out"
        raise invalid(f"{place}: {reason}", place, "invalid_value")


def of_messages(messages: Sequence[ChatMessage]) -> Iterable[CallOrResult]:
    """Those of a chat."""
    for i, message in enumerate(messages):
        for j, call in enumerate(message.tool_calls or ()):
            yield CallOrResult(f"messages[{i}].tool_calls[{j}].id", call.id, is_call=True)
        if message.tool_call_id is not None:
            yield CallOrResult(f"messages[{i}].tool_call_id", message.tool_call_id, is_call=False)
