"""What models have in common that an engine of wrinklefree_inference runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_handler.conversations import ConversationTemplate
from wf_formats.tokenizer import read_tokenizer
from wrinklefree_inference import TokenScores


class EngineModel:
    """The part of models.EvalModel that is the engine's.

    Attributes:
        engine: It tokenizes, scores and generates.
        vocabulary: As lm-eval asks for it; see harness.Vocabulary.
    """

    path: Path
    context_tokens: int
    prefix_ids: list[int]
    engine: Any
    vocabulary: Any

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it."""
        scores: TokenScores = self.engine.score(ids, start)
        return scores

    def template(self) -> ConversationTemplate:
        """See models.EvalModel."""
        source = read_tokenizer(self.path)
        return ConversationTemplate(source.chat_template, source.special_tokens, str(self.path))

    def harness(self, batch_size: int) -> Any:
        """An lm-eval model that scores through the engine, which batches by itself."""
        from wrinklefree_eval.harness import EngineLM

        return EngineLM(self.engine, self.vocabulary, self.context_tokens, self.prefix_ids, self.template)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()
