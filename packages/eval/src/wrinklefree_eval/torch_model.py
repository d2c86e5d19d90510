"""An autoregressive model in PyTorch (torch_loading.py loads it)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitnet_arch.scoring import score_tokens
from data_handler.conversations import ConversationTemplate
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.models import ModelKind
from wrinklefree_inference import TokenScores


class TorchModel:
    """A causal LM of transformers with its tokenizer; see models.EvalModel."""

    def __init__(self, path: Path, kind: ModelKind, model: Any, tokenizer: Any, context_tokens: int) -> None:
        self.path, self.kind = path, kind
        self.model, self.tokenizer = model.eval(), tokenizer
        self.context_tokens = context_tokens
        self.prefix_ids: list[int] = tokenizer("").input_ids
        longest = getattr(model.config, "max_position_embeddings", context_tokens)
        if context_tokens > longest:
            raise EvalError(f"{path} knows {longest} positions: use --context {longest} or less")

    def facts(self) -> dict[str, Any]:
        """Name, architecture, parameters and bytes of the weights on disk."""
        return {
            "name": self.path.name,
            "architecture": type(self.model).__name__,
            "num_parameters": sum(p.numel() for p in self.model.parameters()) + self._num_packed_weights(),
            "size_bytes": sum(f.stat().st_size for f in self.path.glob("*.safetensors")),
        }

    def _num_packed_weights(self) -> int:
        """Weights of packed ternary layers, four to a uint8 (bitnet's and ours)."""
        packed = (b for b in self.model.buffers() if b.dtype == torch.uint8)
        return 4 * sum(buffer.numel() for buffer in packed)

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; text that spells a special token stays text."""
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        text: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it."""
        if len(ids) > self.context_tokens:
            raise ValueError(f"cannot score {len(ids)} ids in a context of {self.context_tokens}")
        return TokenScores(np.asarray(ids[start:]), *score_tokens(self.model, ids, start))

    def template(self) -> ConversationTemplate:
        """See models.EvalModel."""
        return ConversationTemplate.of(self.tokenizer)

    def harness(self, batch_size: int) -> Any:
        """lm-eval's own `HFLM` around this model, with our rendering of chats."""
        from wrinklefree_eval.torch_harness import ChatHFLM

        return ChatHFLM(
            self.template,
            pretrained=self.model,
            tokenizer=self.tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=self.context_tokens,
        )

    def close(self) -> None:
        """Drop the model."""
        self.model = None
