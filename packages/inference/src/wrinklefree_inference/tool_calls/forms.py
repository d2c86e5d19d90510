"""The ways in which models write calls of functions.

All are a text of this shape, in which only names and arguments differ, so that a grammar can hold a model to
it and a reader needs no more than to look for what stands between:

    opening NAME middle ARGUMENTS (between NAME middle ARGUMENTS)* closing

A form is chosen by what the model's chat template writes for a call of an earlier turn (`template.py`), never
by the model's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

MISTRAL_ID = re.compile(r"[a-zA-Z0-9]{9}")


@dataclass(frozen=True)
class ToolForm:
    """How a model writes calls.

    Attributes:
        marker: How `opening` begins; text before it is content, what follows it is a call.
        leads: Whether a call is the beginning of the answer or not there at all: the marker could stand in an
            ordinary text too.
        between: None where an answer has one call at most.
        before: What may stand before the marker, if the tokenizer has it as a special token.
        short_ids: Whether ids of calls are nine letters and digits.
        special: Ids of the special tokens that occur in the texts above or around thoughts, by their text.
    """

    name: str
    marker: str
    opening: str
    middle: str
    closing: str
    between: str | None
    leads: bool = False
    before: str | None = None
    short_ids: bool = False
    special: Mapping[str, int] = field(default_factory=dict)

    @property
    def may_be_special(self) -> tuple[str, ...]:
        """Parts of its texts that are special tokens in some tokenizers."""
        names = (*_SPECIAL, *([self.before] if self.before else []))
        texts = (self.opening, self.middle, self.closing, self.between or "", self.before or "")
        thinking = () if self.leads else chain.from_iterable(_THINKING)
        return (*(name for name in names if any(name in text for text in texts)), *thinking)

    @property
    def thinking(self) -> tuple[str, str] | None:
        """What stands around a thought before an answer, where both are special tokens; else they are text.

        None for a form that leads: behind a thought its call would not be the beginning.
        """
        known = (pair for pair in _THINKING if all(name in self.special for name in pair))
        return next(known, None)

    def with_special(self, special: Mapping[str, int]) -> ToolForm:
        """The same for a tokenizer in which these are special tokens."""
        return replace(self, special=special)

    def written(self, name: str, arguments: str) -> str:
        """One call as the model would write it."""
        return f"{self.opening}{name}{self.middle}{arguments}{self.closing}"


_THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Qwen 3, DeepSeek, SmolLM3 and others; Magistral."""
_SPECIAL = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")

HERMES = ToolForm(
    name="hermes",
    marker="<tool_call>",
    opening='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    closing="}\n</tool_call>",
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
)
"""Nous Hermes, Qwen 2.5 and 3, SmolLM2 1.7B, SmolLM3; and models whose template shows no calls."""
LLAMA = ToolForm(
    name="llama",
    marker='{"name"',
    opening='{"name": "',
    middle='", "parameters": ',
    closing="}",
    between=None,  # its template refuses two at once
    leads=True,
    before="<|python_tag|>",
)
"""Llama 3.1, 3.2, 3.3."""
MISTRAL = ToolForm(
    name="mistral",
    marker="[TOOL_CALLS]",
    opening='[TOOL_CALLS] [{"name": "',
    middle='", "arguments": ',
    closing="}]",
    between='}, {"name": "',
    short_ids=True,
)
"""Mistral 7B v0.3, Mixtral, Mistral Large."""
MISTRAL_NEMO = replace(MISTRAL, name="mistral-nemo", opening='[TOOL_CALLS][{"name": "')
"""Mistral Nemo, Small: without the space."""
MISTRAL_ARGS = ToolForm(
    name="mistral-args",
    marker="[TOOL_CALLS]",
    opening="[TOOL_CALLS]",
    middle="[ARGS]",
    closing="",
    between="[TOOL_CALLS]",
    short_ids=True,
)
"""Mistral Small 3.2, Devstral, Magistral."""

FORMS = (HERMES, LLAMA, MISTRAL, MISTRAL_NEMO, MISTRAL_ARGS)


def form_in(text: str, name: str) -> ToolForm:
    """The form in which a template has written a call of `name`; Hermes' where it is none of the table."""
    known = (form for form in FORMS if f"{form.opening}{name}{form.middle}" in text)
    return next(known, HERMES)
