"""Masked diffusion and block diffusion: the loss that makes a model denoise blocks (docs/diffusion.md).

    loss = mean over labels of w CE(token | its noisy block, the clean blocks before it)

1. The batch is shown as `[noisy | clean]` (noisy_clean.py): in each block of `block_size` tokens each token
   with a label is masked with the probability of the block's time (noise.py); blocks before it are clean.
2. Masked tokens are predicted in the noisy half: at the token before them with the token shift, else at their
   own place. Under the shift the first token of a block is never masked: it is predicted at the clean half,
   by the finished block before it, with plain cross-entropy, as in decoding.
3. `weighting=uniform` counts each masked token alike (Fast-dLLM v2, arXiv 2509.26328). `elbo` gives it 1 / p,
   p its probability of being masked, which makes the loss a bound of -log p(text) (MDLM, arXiv 2406.07524;
   LLaDA, arXiv 2502.09992; over blocks BD3-LM, arXiv 2503.09573).

Defaults: uniform, with complementary masks. A second noisy half masks what the first one left, so each label
counts exactly once, as in cross-entropy, and none with a weight of up to 1 / eps: gradients vary less, and
converting a model is about its predictions rather than its bound. Train from scratch, or for the bound, with
elbo.

Blocks of one token under the shift are next-token cross-entropy. A block as long as the row is MDLM.

Cost: rows three times as long as the text with complementary masks, twice without; the head for predicted
tokens alone. Block size, mask token and shift are those of the model (`model.config.block_diffusion`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from wf_formats.diffusion import SETTINGS_KEY, BlockDiffusion
from wf_formats.errors import RequestError
from wrinklefree.capture import LAST_HIDDEN_STATE, View
from wrinklefree.config.ranges import number
from wrinklefree.objectives.base import (
    Objective,
    ObjectiveConfig,
    ObjectiveResult,
    Pass,
    TokenLosses,
    Wish,
    over_labels,
)

if TYPE_CHECKING:
    from torch import Tensor

NOISY_CLEAN = "noisy_clean"
"""The view of block diffusion: noisy_clean.py."""


class Weighting(StrEnum):
    uniform = "uniform"
    """Masked tokens count alike."""
    elbo = "elbo"
    """By 1 / p: the loss is a bound of the text's -log p."""


@dataclass
class DlmConfig(ObjectiveConfig):
    """Cross-entropy of masked tokens, block by block."""

    weighting: Weighting = Weighting.uniform
    """uniform: masked tokens count alike; elbo: by 1 / p, which makes the loss a bound."""
    complementary: bool = True
    """Each block is shown with two choices of masks, of which each token is in one; false: with one."""
    eps: float = number(1e-3, above=0, below=0.5)
    """The least probability with which a token is masked; with complementary masks the most is 1 - eps."""
    flex_attention: bool = True
    """On GPUs, attention that skips what no token sees; false: a dense mask, as on CPUs."""
    chunk_tokens: int = number(512, least=1)
    """Predictions whose logits exist at the same time (memory: chunk_tokens x vocabulary x 4 bytes)."""


class Dlm(Objective):
    config = DlmConfig
    name: ClassVar[str] = "dlm"
    """For messages."""
    wishes = {NOISY_CLEAN: Wish(student=LAST_HIDDEN_STATE)}  # noqa: RUF012

    def __init__(self, config: DlmConfig) -> None:
        self.options = config
        self.seed = self.step = 0
        self.diffusion: BlockDiffusion | None = None

    def attach(self, student: Any, seed: int) -> None:
        self.seed, self.diffusion = seed, diffusion_of(student, self.name)

    def at_step(self, step: int) -> None:
        self.step = step

    @property
    def row_tokens(self) -> int:
        return self._num_choices + 1

    def views(self, batch: View) -> Mapping[str, View]:
        from wrinklefree_distillation.noise import noise_generator
        from wrinklefree_distillation.noisy_clean import noisy_clean_view

        assert self.diffusion is not None
        options = self.options
        generator = noise_generator(self.seed, self.step, batch["input_ids"].cpu())
        view = noisy_clean_view(
            batch, self.diffusion, options.eps, options.complementary, generator, options.flex_attention
        )
        return {NOISY_CLEAN: view}

    def view_options(self) -> Mapping[str, Any]:
        return {name: getattr(self.options, name) for name in ("eps", "complementary", "flex_attention")}

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        from wrinklefree.cross_entropy import cross_entropy_of_predictions
        from wrinklefree_distillation import noisy_clean as nc

        assert self.diffusion is not None
        view, student = passes[NOISY_CLEAN].view, passes[NOISY_CLEAN].student
        assert student.head_weight is not None
        num_labels = view[nc.LABELLED].sum().clamp_min(1)
        weights, bound_weights = self._weights(view)
        loss, losses = cross_entropy_of_predictions(
            student.last_hidden_state.flatten(0, 1)[view[nc.PREDICTING]],
            student.head_weight,
            view[nc.TARGETS],
            weights / num_labels,
            self.options.chunk_tokens,
            never=self.diffusion.mask_token_id,
        )
        num_firsts = (view[nc.HALVES] == self._num_choices).sum()
        metrics = {
            "loss_nats": loss.detach(),
            "bound_nats": (bound_weights * losses).sum() / num_labels,
            "masked_ratio": (view[nc.HALVES] == 0).sum() / (num_labels - num_firsts).clamp_min(1),
        }
        return over_labels(view, ObjectiveResult(loss, metrics, self._by_token(view, weights * losses)))

    def _by_token(self, view: View, losses: Tensor) -> TokenLosses:
        """Of each label, in its place in the batch. Args: losses [predictions], with their weights."""
        import torch

        from wrinklefree_distillation import noisy_clean as nc

        labelled = view[nc.LABELLED]
        values = torch.zeros(labelled.numel(), device=losses.device)
        values[view[nc.PREDICTED]] = losses
        return TokenLosses(values.view_as(labelled), labelled)

    @property
    def _num_choices(self) -> int:
        return 2 if self.options.complementary else 1

    def _weights(self, view: View) -> tuple[Tensor, Tensor]:
        """Of each prediction, in the loss and in the bound; labels have a mean weight of 1 in both."""
        from wrinklefree_distillation import noisy_clean as nc

        is_masked = view[nc.HALVES] < self._num_choices
        of_bound = 1 / (view[nc.PROBABILITIES] * self._num_choices)
        of_bound = of_bound.where(is_masked, 1.0)
        if self.options.weighting is Weighting.elbo:
            return of_bound, of_bound
        num_maskable = view[nc.LABELLED].sum() - (~is_masked).sum()
        share = num_maskable / is_masked.sum().clamp_min(1)
        return share.where(is_masked, 1.0), of_bound


def diffusion_of(student: Any, objective: str) -> BlockDiffusion:
    """What the model that is trained says of itself.

    Raises: RequestError for an autoregressive model, and for one whose vocabulary has no mask token.
    """
    diffusion = BlockDiffusion.from_settings({SETTINGS_KEY: getattr(student.config, SETTINGS_KEY, None)})
    if diffusion is None:
        raise RequestError(
            f"objective '{objective}': the model is autoregressive, it has no {SETTINGS_KEY}: train with "
            "`wf train -s 4`, which makes it a diffusion model first"
        )
    num_tokens = student.get_output_embeddings().weight.shape[0]
    if diffusion.mask_token_id >= num_tokens:
        raise RequestError(
            f"objective '{objective}': the mask token is id {diffusion.mask_token_id}, and the vocabulary "
            f"has {num_tokens} tokens, no row for it: start from the autoregressive model, with "
            "`wf train -s 4`"
        )
    return diffusion
