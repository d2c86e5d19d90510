"""Sets of GLUE (Wang et al. 2018, arXiv 1804.07461): a fixed prompt, and a word for each label.

The same prompt serves training and evaluation. The question stands last, so that a text which is cut from
the left to fit keeps it. The words are one token each in the tokenizers of SmolLM2, Qwen and Llama 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_handler.describing import kind_of
from data_handler.formats.base import Message, RecordFormat, UnfitRecordError, exchange, field, filled


@dataclass(frozen=True)
class Classification(RecordFormat):
    """
    Attributes:
        texts: fields that the prompt names.
        prompt: with the texts in braces.
        meanings: of the labels 0, 1, ...
        words: what the model answers for each.
    """

    texts: tuple[str, ...]
    prompt: str
    meanings: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*self.texts, "label")

    def question(self, record: Mapping[str, Any]) -> str:
        """The prompt of a record. Raises: UnfitRecordError."""
        return self.prompt.format(**{name: filled(record, name) for name in self.texts})

    def label(self, record: Mapping[str, Any]) -> int:
        """Raises: UnfitRecordError for a label outside of the set (-1 marks hidden ones)."""
        label = field(record, "label")
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(self.words):
            known = ", ".join(f"{number} ({meaning})" for number, meaning in enumerate(self.meanings))
            raise UnfitRecordError(f"field 'label' holds {kind_of(label)}; one of {known} is wanted")
        return label

    def messages(self, record: Mapping[str, Any]) -> list[Message]:
        return exchange(self.question(record), self.words[self.label(record)])


MNLI = Classification(
    texts=("premise", "hypothesis"),
    prompt="Premise: {premise}\nHypothesis: {hypothesis}\n\n"
    "Does the premise make the hypothesis true? Answer Yes, Maybe or No.",
    meanings=("entailment", "neutral", "contradiction"),
    words=("Yes", "Maybe", "No"),
)
QNLI = Classification(
    texts=("question", "sentence"),
    prompt="Sentence: {sentence}\nQuestion: {question}\n\n"
    "Does the sentence hold the answer to the question? Answer Yes or No.",
    meanings=("entailment", "not_entailment"),
    words=("Yes", "No"),
)
SST2 = Classification(
    texts=("sentence",),
    prompt="Review: {sentence}\n\nIs this review positive or negative? Answer Positive or Negative.",
    meanings=("negative", "positive"),
    words=("Negative", "Positive"),
)
