"""Instructions with one answer: Alpaca's fields, or a prompt and a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_handler.formats.base import (
    Message,
    RecordFormat,
    UnfitRecordError,
    answer_of,
    exchange,
    filled,
    text_of,
)

_PAIRS = {"prompt": "response", "inputs": "targets"}
"""Field of the question -> field of the answer: Dolly, FLAN."""


class Instruction(RecordFormat):
    """`input`, which may be empty or missing, stands below the instruction."""

    fields = ("instruction", "input", "output", *_PAIRS, *_PAIRS.values())

    def messages(self, record: Mapping[str, Any]) -> list[Message]:
        if "instruction" in record:
            parts = [filled(record, "instruction"), text_of(record, "input") if record.get("input") else ""]
            return exchange("\n\n".join(filter(None, parts)), answer_of(record, "output"))
        for question, answer in _PAIRS.items():
            if question in record:
                return exchange(filled(record, question), answer_of(record, answer))
        raise UnfitRecordError(
            f"it has {sorted(map(str, record))[:20]}; instruction, input and output are wanted, or prompt "
            "and response, or inputs and targets"
        )
