"""Reconstruction of each block's output by itself: what low-rank corrections are trained on after their
closed form.

loss = mean_l mean_t |s_lt - d_lt|^2 / |d_lt|^2

over the outputs of all blocks (the last one after the final norm), s the student's and d the dense
original's. Gradients end at the input of each block, so a correction answers for the errors of its own block
and for those that came into it, never for what later blocks make of them; `layerwise` is the same comparison
with gradients through the whole model. The closed form (wf_ptq.low_rank) solves each linear by itself, which
is another objective still: it knows nothing of what attention and gates do with several errors at once.

The pass is a view of its own: beside other objectives it costs a further forward pass of both models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wrinklefree.capture import EVERY_LAYER, Capture, Shape, View
from wrinklefree.objectives.base import Objective, ObjectiveConfig, ObjectiveResult, Pass, Wish
from wrinklefree.objectives.layerwise import check_states, layer_means, state_errors

BLOCKWISE = "blockwise"
_NAME = "lrc_reconstruction"


@dataclass
class LrcReconstructionConfig(ObjectiveConfig):
    """Normalized MSE of each block's output, with gradients within the block."""


class LrcReconstruction(Objective):
    config = LrcReconstructionConfig
    wishes = {  # noqa: RUF012
        BLOCKWISE: Wish(
            student=Capture(hidden_states=EVERY_LAYER, detached_blocks=True),
            teacher=Capture(hidden_states=EVERY_LAYER),
        )
    }

    def views(self, batch: View) -> Mapping[str, View]:
        return {BLOCKWISE: batch}

    def check(self, student: Shape, teacher: Shape) -> None:
        check_states(_NAME, student, teacher)

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        import torch

        by_token = state_errors(_NAME, passes[BLOCKWISE])
        errors = torch.stack([error.mean() for error in by_token])
        metrics = {"nmse_ratio": errors.detach().mean(), "last_nmse_ratio": errors.detach()[-1]}
        shares = torch.full_like(errors.detach(), 1 / len(errors))
        return ObjectiveResult(errors.mean(), metrics, layer_means(by_token, shares))
