"""GGUF files, by the llamacpp engine of wrinklefree_inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wrinklefree_eval.engine_model import EngineModel
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.models import ModelKind
from wrinklefree_inference import EngineError
from wrinklefree_inference.llamacpp.engine import LlamaCppEngine
from wrinklefree_inference.options import EngineOptions


class LlamaCppModel(EngineModel):
    """One GGUF file; see models.EvalModel.

    Raises:
        EvalError: llama.cpp refuses the file, or it was made for fewer positions.
    """

    kind = ModelKind.GGUF

    def __init__(
        self, path: Path, context_tokens: int, num_threads: int | None, adapter: Path | None = None
    ) -> None:
        self.path, self.context_tokens = path, context_tokens
        try:
            self.engine = LlamaCppEngine(path, EngineOptions(context_tokens, num_threads, adapter))
            self.vocabulary = scorer = self.engine.scorer
        except EngineError as error:
            raise EvalError(f"{error}; --kind native runs what `wf serve` runs") from error
        longest = scorer.trained_context_tokens
        if context_tokens > longest:
            self.close()
            raise EvalError(f"{path} knows {longest} positions: use --context {longest} or less")
        self.prefix_ids = [scorer.bos_id] if scorer.adds_bos else []

    def facts(self) -> dict[str, Any]:
        """Name, parameters and size of the file."""
        return {
            "name": self.path.name,
            "architecture": "gguf",
            "num_parameters": self.engine.scorer.num_parameters,
            "size_bytes": self.path.stat().st_size,
        }

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without special tokens around it."""
        return self.engine.tokenize(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return self.engine.scorer.detokenize(ids)
