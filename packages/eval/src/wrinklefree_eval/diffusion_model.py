"""Block-diffusion checkpoints, in PyTorch: a bound where an autoregressive model has a likelihood."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bitnet_arch.block_scoring import BlockBound, bound_tokens
from wf_formats.diffusion import BlockDiffusion
from wrinklefree_eval.errors import EvalError, EvalRequestError
from wrinklefree_eval.models import ModelKind
from wrinklefree_eval.torch_model import TorchModel
from wrinklefree_inference import TokenScores

DEFAULT_SAMPLES = 16
"""A block of up to four tokens that may be masked has all of its 15 masks."""


class DiffusionModel(TorchModel):
    """See models.EvalModel; it has no `score`.

    Attributes:
        diffusion: What it is.
        samples: Copies with masks of each block, at most.
        seed: Of the masks; those of a text depend on it and the text alone, not on what was scored before.
        num_passes: Of the bounds so far.

    Raises:
        EvalError: the tokenizer has its mask token elsewhere.
        EvalRequestError: windows of the context do not end with a block.
    """

    def __init__(
        self,
        path: Path,
        kind: ModelKind,
        model: Any,
        tokenizer: Any,
        context_tokens: int,
        diffusion: BlockDiffusion,
    ) -> None:
        super().__init__(path, kind, model, tokenizer, context_tokens)
        self.diffusion = diffusion
        self.samples, self.seed = DEFAULT_SAMPLES, 0
        self.num_passes = 0
        if tokenizer.mask_token_id != diffusion.mask_token_id:
            raise EvalError(
                f"{path}: the model's mask token is {diffusion.mask_token_id}, the tokenizer's "
                f"{tokenizer.mask_token_id}: copy config.json and the tokenizer's files from one checkpoint"
            )
        if context_tokens % diffusion.block_size:
            raise EvalRequestError(
                f"--context {context_tokens} does not end with one of the model's blocks of "
                f"{diffusion.block_size} tokens: give a multiple of {diffusion.block_size}"
            )

    def facts(self) -> dict[str, Any]:
        """As of a `TorchModel`, and what it denoises."""
        return super().facts() | {"block_diffusion": self.diffusion.to_settings()}

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Raises: ValueError: there are no likelihoods of its tokens."""
        raise ValueError("a block-diffusion model has a bound, no likelihood: use `bound`")

    def bound(self, ids: Sequence[int], start: int) -> BlockBound:
        """A bound of -log p(ids[start:]), given all ids before them.

        Raises: EvalError for a mask token among the ids.
        """
        if len(ids) > self.context_tokens:
            raise ValueError(f"cannot score {len(ids)} ids in a context of {self.context_tokens}")
        if self.diffusion.mask_token_id in ids:
            raise EvalError(
                f"a text holds the mask token (id {self.diffusion.mask_token_id}), which stands for what is "
                "not known: leave it out of the text"
            )
        contents = zlib.crc32(array("q", [self.seed, start, *ids]).tobytes())
        generator = torch.Generator().manual_seed(contents)
        found = bound_tokens(self.model, ids, start, self.samples, generator)
        self.num_passes += found.num_passes
        return found

    def harness(self, batch_size: int) -> Any:
        """An lm-eval model that scores by the bound and generates by block decoding."""
        from wrinklefree_eval.diffusion_harness import DiffusionLM

        return DiffusionLM(self, self.template)
