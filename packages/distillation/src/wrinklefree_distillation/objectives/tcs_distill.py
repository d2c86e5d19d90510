"""Target Concrete Score distillation: a denoiser learns from an autoregressive teacher (TCSM, arXiv
2504.16431).

    loss = mean over labels of w ((1 - a) CE(token | its noisy block) + a T^2 KL(target, student))

The student sees what `dlm` shows, and both together cost one pass of it; the teacher reads the text as it is.
`dlm` is in the loss already: beside this objective it is for runs whose weights change by phase.

| target | for a masked token i | cost |
| --- | --- | --- |
| `left_only` | p(v | x_<i) | one pass of the teacher over the text |
| `exact` | p(v | x_<i) times the product of p(x_j | x_<i, v, ..) over the tokens that the student sees to the
right of i in its block | for `asked_share` of such tokens, (candidates + tail_draws) times as many tokens as
the product has |

- `left_only` is biased wherever the student sees something right of i: the teacher does not, and the student
  is told to forget it. So a is small, and may grow with the share of the block that is masked
  (`share_when_masked`): where all is masked nothing stands to the right.
- `exact` goes up to the last token that the student sees, at most `window_tokens` on (beyond it the target is
  biased as the other is), and through masked ones between: over these its mean is p(v | what the student
  sees) (tower rule), so it is an unbiased target, of less variance than the token itself. Tokens that are
  asked for are drawn by the run's seed and count for all of them. losses/concrete_score.py has the formula,
  and what becomes of tokens that are no candidates.
- Predictions with nothing visible to the right, and under the token shift the first tokens of blocks, have an
  ordinary target, of the whole vocabulary: there both targets are the same.

The original ranked candidates by the teacher, renormalised these 100 of the vocabulary, at a temperature of
5, and compared them with the student's logits one place further: its loss stayed at 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from wrinklefree.capture import LAST_HIDDEN_STATE, Capture, Shape, View
from wrinklefree.config.ranges import number
from wrinklefree.objectives.base import (
    PLAIN,
    ObjectiveResult,
    Pass,
    Wish,
    over_labels,
)
from wrinklefree_distillation.objectives.dlm import NOISY_CLEAN, Dlm, DlmConfig
from wrinklefree_distillation.objectives.logits_distill import check_temperature

if TYPE_CHECKING:
    from torch import Tensor

    from wrinklefree_distillation.losses.predictions import Shared


class Target(StrEnum):
    left_only = "left_only"
    """What the teacher expects after the tokens to the left."""
    exact = "exact"
    """That, times how well what stands to the right goes with it."""


@dataclass
class TcsDistillConfig(DlmConfig):
    """Cross-entropy of masked tokens, and divergence from what an autoregressive teacher says of them."""

    target: Target = Target.left_only
    """left_only: one pass of the teacher, biased; exact: unbiased, more of the teacher's passes."""
    share: float = number(0.1, least=0, most=1)
    """a: the divergence's part of the loss; the rest is the cross-entropy's."""
    share_when_masked: float | None = number(None, least=0, most=1)
    """a where a block is masked as a whole, in proportion in between; null: a is the same everywhere."""
    temperature: float = number(1.0, above=0)
    """Of both distributions; exact knows 1 only."""
    asked_share: float = number(0.05, above=0, most=1)
    """exact: of the masked tokens that have something visible to their right, how many the teacher is
    asked."""
    candidates: int = number(16, least=1)
    """exact: tokens that are tried in the place of a masked one."""
    tail_draws: int = number(2, least=1)
    """exact: tokens that are drawn from the rest of the vocabulary, to say what it weighs."""
    window_tokens: int = number(8, least=1)
    """exact: how far the product goes to the right."""
    branch_tokens: int = number(1024, least=1)
    """exact: tokens of candidates in one pass of the teacher, beside the text before them."""


class TcsDistill(Dlm):
    config = TcsDistillConfig
    name = "tcs_distill"
    wishes = {  # noqa: RUF012
        NOISY_CLEAN: Wish(student=LAST_HIDDEN_STATE),
        PLAIN: Wish(student=Capture(), teacher=Capture(predictions=True)),
    }
    options: TcsDistillConfig

    def check(self, student: Shape, teacher: Shape) -> None:
        options = self.options
        num_tokens, known = student.vocab_size, teacher.vocab_size
        if num_tokens is not None and known is not None and num_tokens - known not in (0, 1):
            raise ValueError(
                f"the student's vocabulary has {num_tokens} tokens and the teacher's {known}, which may "
                "lack the mask token alone; choose a teacher with the student's tokenizer (model.teacher)"
            )
        if teacher.sparse_temperature is not None:
            check_temperature(options.temperature, teacher.sparse_temperature)
        if options.target is not Target.exact:
            return
        if teacher.sparse_temperature is not None or not teacher.knows_any_text:
            raise ValueError(
                "target=exact asks the teacher about texts of its own making, for whole distributions: "
                "choose model.teacher.kind=local or target=left_only"
            )
        if options.temperature != 1:
            raise ValueError(
                f"temperature={options.temperature:g} with target=exact, whose product is one of "
                "probabilities: give 1, or choose target=left_only"
            )

    def check_sharded(self) -> None:
        if self.options.target is Target.exact:
            raise ValueError(
                "target=exact asks the teacher a number of times that depends on a rank's own text, which "
                "distributed=fsdp cannot do: choose target=left_only or distributed=ddp"
            )

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        import torch

        from wrinklefree_distillation import noisy_clean as nc
        from wrinklefree_distillation.losses.head import head_losses
        from wrinklefree_distillation.losses.predictions import Shared, Sum, TokenTerm

        assert self.diffusion is not None
        view, student = passes[NOISY_CLEAN].view, passes[NOISY_CLEAN].student
        assert student.head_weight is not None
        weights, bound_weights = self._weights(view)
        num_labels = view[nc.LABELLED].sum().clamp_min(1)
        is_taught = self._is_taught(view, passes[PLAIN].view)
        share = self._share(view).where(is_taught, 0.0)
        every = torch.arange(len(weights), device=weights.device)
        counted = every[view[nc.TARGETS] >= 0]
        tokens = Shared(
            TokenTerm(view[nc.TARGETS], counted, self.diffusion.mask_token_id),
            (1 - share) * weights / num_labels,
        )
        taught = self._taught(passes, is_taught, share * weights / num_labels)
        rows = student.last_hidden_state.flatten(0, 1)[view[nc.PREDICTING]].unsqueeze(0)
        whole = Sum([tokens, *taught])
        (found,) = head_losses(rows, student.head_weight, [whole], self.options.chunk_tokens)
        losses = tokens.losses
        metrics = {
            "loss_nats": (weights * losses).sum() / num_labels,
            "bound_nats": (bound_weights * losses).sum() / num_labels,
            "target_nats": _mean_divergence(taught, self.options.temperature),
        }
        by_token = self._by_token(view, weights * losses)
        return over_labels(view, ObjectiveResult(found.mean, metrics, by_token))

    def _is_taught(self, view: View, clean: View) -> Tensor:
        """bool [predictions]: of a token with one before it in its document."""
        from wrinklefree_distillation import noisy_clean as nc

        return (clean["position_ids"].flatten()[view[nc.PREDICTED]] > 0) & (view[nc.TARGETS] >= 0)

    def _share(self, view: View) -> Tensor:
        """a of each prediction."""
        from wrinklefree_distillation import noisy_clean as nc

        least, most = self.options.share, self.options.share_when_masked
        return least + ((least if most is None else most) - least) * view[nc.PROBABILITIES]

    def _taught(self, passes: Mapping[str, Pass], is_taught: Tensor, shares: Tensor) -> list[Shared]:
        """Divergences from each kind of target."""
        from wrinklefree_distillation import tcs_targets
        from wrinklefree_distillation.losses.chunked_divergence import Comparison
        from wrinklefree_distillation.losses.divergences import forward
        from wrinklefree_distillation.losses.predictions import Shared, TaughtTerm

        assert self.diffusion is not None
        options, mask = self.options, self.diffusion.mask_token_id
        view, clean = passes[NOISY_CLEAN].view, passes[PLAIN]
        targets = tcs_targets.of_left(view, clean, is_taught)
        if options.target is Target.exact:
            question = tcs_targets.Question(options, self.diffusion, self._num_choices)
            targets = tcs_targets.of_both_sides(view, clean, is_taught, question, self.seed, self.step)
        how = Comparison(forward, options.temperature, options.chunk_tokens)
        return [
            Shared(TaughtTerm(target.said, target.positions, how, mask), shares * target.stands_for)
            for target in targets
        ]


def _mean_divergence(taught: list[Shared], temperature: float) -> Tensor:
    """Over what was compared, without the factor T^2."""
    import torch

    losses = torch.cat([part.losses[part.term.positions] for part in taught])
    return losses.sum() / max(len(losses), 1) / temperature**2
