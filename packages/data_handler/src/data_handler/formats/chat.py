"""Conversations: `messages`, a list of objects with `role` and `content`; every answer counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_handler.describing import kind_of
from data_handler.formats.base import Message, RecordFormat, UnfitRecordError, field

ROLES = ("system", "user", "assistant")


class Chat(RecordFormat):
    fields = ("messages",)

    def messages(self, record: Mapping[str, Any]) -> list[Message]:
        found = field(record, "messages")
        if not isinstance(found, list) or not found:
            raise UnfitRecordError(
                f"field 'messages' holds {kind_of(found)}; a list of objects with role and content is wanted"
            )
        messages = [_message(number, entry) for number, entry in enumerate(found, 1)]
        if messages[0]["role"] == "assistant":
            raise UnfitRecordError("the first message is an answer (role 'assistant') to nothing")
        if not any(message["role"] == "assistant" for message in messages):
            raise UnfitRecordError("no message has the role 'assistant': there is no answer to learn")
        return messages


def _message(number: int, entry: object) -> Message:
    """Words as they are, white space too: the template says what becomes of it."""
    if not isinstance(entry, Mapping):
        raise UnfitRecordError(f"message {number} is {kind_of(entry)}, not an object with role and content")
    role, content = entry.get("role"), entry.get("content")
    if role not in ROLES:
        raise UnfitRecordError(f"message {number} has the role {kind_of(role)}, not one of {list(ROLES)}")
    if not isinstance(content, str):
        raise UnfitRecordError(f"the content of message {number} is {kind_of(content)}, not text")
    if role == "assistant" and not content.strip():
        raise UnfitRecordError(f"the answer, message {number}, is empty: there is nothing to learn")
    return {"role": str(role), "content": content}
