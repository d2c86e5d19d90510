"""Checkpoints and exported Hugging Face folders, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

import bitnet_arch
from bitnet_arch.diffusion_model import block_diffusion_of
from bitnet_arch.scoring import score_tokens
from bitnet_arch.tokenizers import load_tokenizer
from data_handler.conversations import ConversationTemplate
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.plugins import PluginError, entries, load
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.models import ModelKind
from wrinklefree_inference import TokenScores

LOADERS = "wrinklefree.transformers_loaders"
"""Entry points of modules that register a `quant_method` with transformers when imported."""


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


def load_torch_model(path: Path, kind: ModelKind, context_tokens: int, num_threads: int | None) -> TorchModel:
    """Load a folder in fp32 (packed ternary weights stay packed), onto a GPU where PyTorch sees one.

    Raises:
        EvalError: The folder is incomplete, damaged, or of a quantization nobody registered.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    loaders = {ModelKind.CHECKPOINT: _load_checkpoint, ModelKind.HF: _load_hf}
    model, tokenizer = loaders[kind](path)
    if tokenizer is None:
        raise EvalError(f"{path} has no tokenizer: copy the model's tokenizer files into it")
    if torch.cuda.is_available():
        model.to("cuda")
    if (diffusion := block_diffusion_of(model)) is not None:
        from wrinklefree_eval.diffusion_model import DiffusionModel

        return DiffusionModel(path, kind, model, tokenizer, context_tokens, diffusion)
    return TorchModel(path, kind, model, tokenizer, context_tokens)


def _load_checkpoint(path: Path) -> tuple[Any, Any]:
    try:
        checkpoint = bitnet_arch.load_checkpoint(path)
    except bitnet_arch.CheckpointError as error:
        raise EvalError(str(error)) from error
    return checkpoint.model, checkpoint.tokenizer


def _load_hf(path: Path) -> tuple[Any, Any]:
    method = _check_quantization(path)
    try:
        tokenizer = load_tokenizer(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise EvalError(f"transformers could not load {path}: {' '.join(str(error).split())}") from error
    # Packed BitNet weights are unpacked to the dtype of their scales (Microsoft's bf16), whatever was asked.
    return (nn.Module.float(model) if method == "bitnet" else model), tokenizer


def _check_quantization(path: Path) -> str | None:
    """Have the quantizers of installed packages registered, and the folder's one among them.

    Returns:
        The folder's quant_method.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    try:
        for entry in entries(LOADERS).values():
            load(entry)
    except PluginError as error:
        raise EvalError(str(error)) from error
    quantization = read_json(path / CONFIG_FILE, EvalError).get("quantization_config") or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else str(quantization)
    if method is not None and method not in AUTO_QUANTIZER_MAPPING:
        raise EvalError(
            f"{path} is quantized by {method!r}, which neither transformers nor an entry point "
            f"{LOADERS!r} of an installed package knows"
        )
    return method
