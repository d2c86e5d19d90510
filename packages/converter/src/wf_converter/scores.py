"""What the runtimes make of a token sequence, and how far two views of it lie apart.

`TokenScores` hold, of each token but the first, its log-probability and the most probable token instead,
given all tokens before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_arch.block_masks import block_causal_mask
from bitnet_arch.diffusion_model import block_diffusion_of
from bitnet_arch.master_quantizer import quantize_master
from bitnet_arch.scoring import score_tokens
from wf_converter.errors import ExportError
from wrinklefree_inference import EngineError, TokenScores
from wrinklefree_inference.engines.log_softmax import log_softmax_at
from wrinklefree_inference.llamacpp.scorer import GgufScorer


def torch_scores(model: Any, ids: Sequence[int]) -> TokenScores:
    """Scores of `ids[1:]` by a transformers model; by a block-diffusion one those of its pass over the known
    text, where a token's block is seen whole: what it computes, and no probability of the text."""
    diffusion = block_diffusion_of(model)
    visible = None if diffusion is None else block_causal_mask(len(ids) - 1, diffusion.block_size)
    return TokenScores(np.asarray(ids[1:]), *score_tokens(model, ids, visible=visible))


def llamacpp_scores(path: Path, ids: Sequence[int], adapter: Path | None = None) -> TokenScores:
    """Scores of `ids[1:]` by llama.cpp, on one thread, without roundings of the runtime's own choice.

    Its defaults, an fp16 cache and flash attention, add roundings that no export is at fault for.

    Args:
        adapter: with the model's low-rank corrections.

    Raises:
        ExportError: llama.cpp refuses the file.
    """
    try:
        with GgufScorer(
            path, len(ids), num_threads=1, cache_type="f32", flash_attention=False, adapter=adapter
        ) as scorer:
            return scorer.score(ids)
    except EngineError as error:
        raise ExportError(f"llama.cpp does not load {path}: {error}") from error


def native_scores(path: Path, ids: Sequence[int], adapter: Path | None = None) -> TokenScores:
    """Scores of `ids[1:]` by the native engine's decoder, in one pass on one thread; of a block-diffusion
    model as `torch_scores` has them.

    Args:
        adapter: with the model's low-rank corrections.

    Raises:
        ExportError: it refuses the file.
    """
    import ternary_kernels

    tokens = np.asarray(ids[:-1], np.int32)
    pages = np.arange(-(-len(tokens) // ternary_kernels.PAGE_TOKENS), dtype=np.int32)
    try:
        weights = ternary_kernels.load_model(path, quantize_master, adapter)
        decoder = ternary_kernels.Decoder(weights, len(pages), num_threads=1)
        starts, contexts = np.array([0, len(tokens)], np.int32), np.zeros(1, np.int32)
        rows = np.arange(len(tokens), dtype=np.int32)
        logits = decoder.forward(tokens, starts, contexts, pages[None], rows)
        targets = np.asarray(ids[1:], np.int64)
        return TokenScores(targets, *log_softmax_at(logits, targets))
    except (EngineError, ValueError) as error:
        raise ExportError(f"the native engine does not run {path}: {error}") from error


@dataclass(frozen=True)
class Difference:
    """How far two models' scores of the same tokens lie apart."""

    top1_agreement: float
    max_abs_delta: float
    mean_abs_delta: float

    @classmethod
    def between(cls, left: TokenScores, right: TokenScores) -> Difference:
        """Compares token by token."""
        delta = np.abs(left.logprobs - right.logprobs)
        agreement = float(np.mean(left.best == right.best))
        return cls(agreement, float(delta.max()), float(delta.mean()))


@dataclass(frozen=True)
class ScaleEstimate:
    """The common relative error of all ternary scales that best explains a difference of log-probs.

    Rounding noise moves log-probs at random, a wrong scale moves each token by its sensitivity times
    the error: a least-squares fit over the tokens tells the two apart even where the noise is larger.
    """

    relative_error: float
    standard_error: float

    @classmethod
    def fit(cls, expected: TokenScores, found: TokenScores, sensitivity: np.ndarray) -> ScaleEstimate:
        """Args: sensitivity: d log-prob / d ln(scale) per token."""
        delta = found.logprobs - expected.logprobs
        energy = float(sensitivity @ sensitivity)
        error = float(sensitivity @ delta) / energy
        residual = delta - error * sensitivity
        variance = float(residual @ residual) / (len(delta) - 1)
        return cls(error, math.sqrt(variance / energy))
