"""Supervised records as tokens, the answers marked; only these have labels.

A record becomes messages (formats/), the messages a text in the model's chat template, and the text tokens
(conversations.py). A token belongs to an answer if any character of it does. Of what ends a turn, tokens
after the last special one (a line end behind <|im_end|>) are not learned: nobody generates them.

Unlike text, an example is never cut over two sequences: an answer without its question teaches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from data_handler.config import OnTooLong, SourceConfig
from data_handler.conversations import ConversationTemplate, Rendered
from data_handler.encoding import AnswerMask, EncodedDocument, Encoder, TokenArray
from data_handler.errors import DataRequestError, TooLongError
from data_handler.formats import Message, UnfitRecordError
from data_handler.readers import conversation_of
from data_handler.records import Reader, Rules
from data_handler.stream import Document


class Example(NamedTuple):
    """tokens, answers: [tokens]; answers tells which the model learns to say."""

    tokens: TokenArray
    answers: AnswerMask


class Conversation(NamedTuple):
    """A record before it is tokens."""

    where: str
    messages: list[Message]

    @property
    def words(self) -> str:
        """What was said, without who said it."""
        return "\n".join(message["content"] for message in self.messages)


class ExampleReading:
    """How the records of a source become examples; see stream.Reading.

    Args:
        max_tokens: of an example; None: any number.

    Raises:
        DataRequestError: the tokenizer has no chat template, or none that shows its answers.
    """

    def __init__(self, config: SourceConfig, encoder: Encoder, max_tokens: int | None) -> None:
        assert config.record_format is not None
        self._config, self._encoder, self._max_tokens = config, encoder, max_tokens
        self._format, self._rules = config.record_format, Rules.of(config)
        try:
            self._template = ConversationTemplate.of(encoder.tokenizer)
        except DataRequestError as error:
            raise DataRequestError(f"source {config.name!r}, format {config.format!r}: {error}") from error

    def read(self, reader: Reader, record: Any) -> Conversation:
        """Raises: BadRecordError for a record that is not of the format."""
        return Conversation(*conversation_of(reader, record, self._format, self._rules))

    def words(self, read: Conversation) -> str:
        return read.words

    def finish(self, read: Conversation) -> Example:
        """Raises: BadRecordError for what the template refuses, TooLongError for too many tokens."""
        try:
            rendered = self._template.render(read.messages)
        except UnfitRecordError as error:
            self._rules.refuse(read.where, str(error))
        return self._fitted(self._tokenized(rendered), read.where)

    def _tokenized(self, rendered: Rendered) -> Example:
        tokens, begins, ends = self._encoder.encode_with_places(rendered.text)
        answers = np.zeros(len(tokens), bool)
        is_special = np.isin(tokens, self._encoder.special_ids)
        for begin, end in rendered.spans:
            (places,) = np.nonzero((ends > begin) & (begins < end))
            (special,) = np.nonzero(is_special[places])
            answers[places[: special[-1] + 1] if len(special) else places] = True
        return Example(tokens, answers)

    def _fitted(self, example: Example, where: str) -> Example:
        length = len(example.tokens)
        if self._max_tokens is None or length <= self._max_tokens:
            return example
        first_answer = int(example.answers.argmax())
        surplus = length - self._max_tokens
        if self._config.on_too_long is not OnTooLong.truncate:
            raise TooLongError(
                f"{where}: {length:,} tokens, and a sequence has {self._max_tokens:,}; lengthen sequences, "
                "or set on_too_long: truncate (leaves out the beginning) or skip",
                where,
            )
        if surplus >= first_answer:
            self._rules.refuse(
                where,
                f"{length - first_answer:,} tokens from its first answer on, and a sequence has "
                f"{self._max_tokens:,}: answers are not cut",
            )
        return Example(example.tokens[surplus:], example.answers[surplus:])


def encoded(documents: Iterable[Document]) -> Iterator[EncodedDocument]:
    """Examples as what mixtures are made of."""
    for document in documents:
        example: Example = document.content
        yield EncodedDocument(example.tokens, document.before, document.after, example.answers)
