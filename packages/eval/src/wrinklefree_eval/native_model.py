"""Whatever `wf serve` runs, by its own engine: GGUF files that llama.cpp has no kernels for, too.

Codes and scales are those of the file; embeddings and head are packed to 8 bits, as when serving
(packages/inference/README.md), so values differ from PyTorch's by some hundredths of a nat.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wf_formats.tokenizer import read_tokenizer
from wrinklefree_eval.engine_model import EngineModel
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.models import ModelKind
from wrinklefree_inference import EngineError
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.native.tokenizer import Tokenizer, load_tokenizer
from wrinklefree_inference.options import EngineOptions


class NativeModel(EngineModel):
    """One file or folder; see models.EvalModel.

    Raises:
        EvalError: the engine refuses it, or it was made for fewer positions.
    """

    kind = ModelKind.NATIVE

    def __init__(
        self, path: Path, context_tokens: int, num_threads: int | None, adapter: Path | None = None
    ) -> None:
        self.path, self.context_tokens = path, context_tokens
        try:
            self.engine = NativeEngine(path, EngineOptions(context_tokens, num_threads, adapter))
        except EngineError as error:
            raise EvalError(str(error)) from error
        self.tokenizer = load_tokenizer(path)
        self._plain = read_tokenizer(path).backend
        self._plain.encode_special_tokens = True  # text that spells a special token stays text
        self.vocabulary = Vocabulary(self.tokenizer)
        self.prefix_ids = self.tokenizer.encode("")

    def facts(self) -> dict[str, Any]:
        """Name, packed format, parameters and size of the weights on disk."""
        facts = self.engine.facts
        return {
            "name": self.path.name,
            "architecture": f"native ({facts.weight_type})",
            "num_parameters": facts.num_parameters,
            "size_bytes": facts.size_bytes,
        }

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without special tokens around it."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return self.tokenizer.decode(ids, skip_special=False)


class Vocabulary:
    """The tokenizer as the harness asks for it; see harness.Vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bos_id = self._id_of("bos_token")
        self.eos_id = self._id_of("eos_token")
        if self.eos_id < 0:
            self.eos_id = min(tokenizer.eos_ids, default=-1)

    def tokenize(self, text: str, parse_special: bool = True) -> list[int]:
        """Ids of a prompt; names of special tokens in it become those tokens."""
        assert parse_special
        return self._tokenizer.encode(text, False)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return self._tokenizer.decode(ids, skip_special=False)

    def _id_of(self, role: str) -> int:
        """-1 where the model has none."""
        text = self._tokenizer.special_tokens.get(role)
        return -1 if text is None else self._tokenizer.encode(text, False)[0]
