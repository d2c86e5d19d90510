"""Conversations as text, in a model's own chat template, and where the answers in it are.

A template marks no answers (`{% generation %}` is rare), so they are found by comparing:

    prefix  the messages before an answer, and what begins the assistant's turn
    whole   the same messages and the answer
    answer  what `whole` has beyond `prefix`: the words, and what ends the turn

Each `prefix` must be the beginning of its `whole`, and each `whole` that of the conversation. A template that
writes earlier messages anew once later ones are there (Qwen3 drops thoughts, where there are several answers)
leaves no place that could be told, and is refused by name.

Cost: two renderings an answer, about 0.2 ms each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_handler.errors import DataRequestError
from data_handler.formats import Message, UnfitRecordError
from wf_formats.chat_template import ChatTemplate, ChatTemplateError

_FIXED = {"date_string": "26 Jul 2024"}
"""Llama 3's templates name this date where they know no other; they would take today's, and a run that is
resumed tomorrow would see other tokens."""
_PROBE = "Yes"


class Rendered(NamedTuple):
    """
    Attributes:
        spans: begin and end of each answer in `text`, ascending.
    """

    text: str
    spans: list[tuple[int, int]]


class ConversationTemplate:
    """A model's chat template.

    Args:
        source: None: the model has none.
        special_tokens: what it knows as `bos_token`, `eos_token`, ...
        name: of the model, for messages.

    Raises:
        DataRequestError: there is none, it is damaged, or one question and answer cannot be told apart.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, str], name: str) -> None:
        if not source:
            raise DataRequestError(
                f"the tokenizer of {name} has no chat template, and conversations are written in it: put a "
                "chat_template.jinja into the model's folder, or take the instruction-tuned model"
            )
        self._name = name
        self.source = source
        try:
            self._template = ChatTemplate(source, {**special_tokens, **_FIXED})
            self.render([{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}])
        except (ChatTemplateError, UnfitRecordError) as error:
            raise DataRequestError(f"the chat template of {name} cannot be trained with: {error}") from error

    @classmethod
    def of(cls, tokenizer: Any) -> ConversationTemplate:
        """That of a tokenizer of transformers."""
        template = tokenizer.chat_template
        special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
        source = template.get("default") if isinstance(template, dict) else template
        return cls(source, special, tokenizer.name_or_path or type(tokenizer).__name__)

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Raises: UnfitRecordError for messages that the template refuses or whose answers cannot be told."""
        text = self._text(messages)
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        return Rendered(text, [self._span(messages, place, text) for place in places])

    def prompt(self, question: str) -> str:
        """What stands before the words of the answer to a question, as in training.

        That is what begins the assistant's turn, and what the template puts before the words there (Qwen3: an
        empty thought).
        """
        asked = [{"role": "user", "content": question}]
        whole = self._text([*asked, {"role": "assistant", "content": _PROBE}])
        return whole[: whole.index(_PROBE, len(self._text(asked, True)))]

    def _span(self, messages: Sequence[Message], place: int, text: str) -> tuple[int, int]:
        prefix, whole = self._text(messages[:place], True), self._text(messages[: place + 1])
        if not (whole.startswith(prefix) and text.startswith(whole)):
            raise UnfitRecordError(
                f"the chat template of {self._name} writes message {place + 1} and those before it in "
                "another way once what follows is there, so the tokens of that answer cannot be told: use "
                "conversations of one answer, or another template"
            )
        return len(prefix), len(whole)

    def _text(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        try:
            return self._template.render(messages, add_generation_prompt)
        except ChatTemplateError as error:
            raise UnfitRecordError(f"{error} (template of {self._name})") from error
