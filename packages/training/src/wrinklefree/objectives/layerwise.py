"""Alignment of the student's hidden states with the teacher's, layer by layer.

loss = sum_l w_l mean_t |s_lt - d_lt|^2 / |d_lt|^2, sum_l w_l = 1

over the outputs of all blocks (the last one after the final norm), with s the student's and d the
dense teacher's state of token t. Normalizing per token keeps the few tokens with huge activations
(attention sinks, up to 1000 times the median norm) from being the whole loss.
Weights: uniform w_l = 1/n; progressive w_l ~ l, since the last layers make the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from wrinklefree.capture import EVERY_LAYER, Capture, Shape
from wrinklefree.objectives.base import (
    PLAIN,
    Objective,
    ObjectiveConfig,
    ObjectiveResult,
    Pass,
    TokenLosses,
    Wish,
)

if TYPE_CHECKING:
    from torch import Tensor

_STATES = Capture(hidden_states=EVERY_LAYER)


class LayerWeighting(StrEnum):
    uniform = "uniform"
    progressive = "progressive"


@dataclass
class LayerwiseConfig(ObjectiveConfig):
    """Normalized MSE between hidden states of student and teacher."""

    layer_weighting: LayerWeighting = LayerWeighting.progressive
    """uniform: every layer alike; progressive: layer i of n counts i/n as much as the last."""


def layer_weights(num_layers: int, weighting: LayerWeighting) -> Tensor:
    """Weights [num_layers] that sum to 1."""
    import torch

    if weighting is LayerWeighting.uniform:
        return torch.full((num_layers,), 1.0 / num_layers)
    ramp = torch.arange(1, num_layers + 1, dtype=torch.float32)
    return ramp / ramp.sum()


def normalized_errors(student: Tensor, teacher: Tensor) -> Tensor:
    """[batch, tokens]: |student - teacher|^2 / |teacher|^2; both [batch, tokens, hidden]."""
    reference = teacher.float()
    error = (student.float() - reference).square().sum(-1)
    return error / reference.square().sum(-1).clamp_min(1e-12)


def check_depth(objective: str, student: int, teacher: int) -> None:
    """Raises: ValueError for other numbers of blocks."""
    if student != teacher:
        raise ValueError(
            f"{objective} compares layer by layer: the student has {student} blocks and the teacher "
            f"{teacher}; choose a teacher of the same depth"
        )


def check_states(objective: str, student: Shape, teacher: Shape) -> None:
    """Raises: ValueError for models whose hidden states do not go in pairs of the same width."""
    check_depth(objective, student.num_layers, teacher.num_layers)
    if student.hidden_size != teacher.hidden_size:
        raise ValueError(
            f"{objective} compares hidden states: the student's have {student.hidden_size} values and the "
            f"teacher's {teacher.hidden_size}; choose a teacher of the same width"
        )


def state_errors(objective: str, shown: Pass) -> list[Tensor]:
    """`normalized_errors` of the outputs of all blocks. Raises: ValueError as `check_depth`."""
    student, teacher = shown.student, shown.taught
    check_depth(objective, student.num_layers, teacher.num_layers)
    pairs = [(student.hidden_states[i], teacher.hidden_states[i]) for i in range(1, student.num_layers + 1)]
    return [normalized_errors(own, other) for own, other in pairs]


def layer_means(errors: Sequence[Tensor], weights: Tensor) -> TokenLosses:
    """Of the errors [batch, tokens] of each layer, weighted by [num_layers]; every token has one."""
    import torch

    values = torch.zeros_like(errors[0], requires_grad=False)
    for error, weight in zip(errors, weights, strict=True):
        values += weight * error.detach()
    return TokenLosses(values, torch.ones_like(values, dtype=torch.bool))


class Layerwise(Objective):
    config = LayerwiseConfig
    wishes = {PLAIN: Wish(student=_STATES, teacher=_STATES)}  # noqa: RUF012

    def __init__(self, config: LayerwiseConfig) -> None:
        self.weighting = config.layer_weighting

    def check(self, student: Shape, teacher: Shape) -> None:
        check_states("layerwise", student, teacher)

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        import torch

        by_token = state_errors("layerwise", passes[PLAIN])
        errors = torch.stack([error.mean() for error in by_token])
        weights = layer_weights(len(errors), self.weighting).to(errors.device)
        metrics = {"nmse_ratio": errors.detach().mean(), "last_nmse_ratio": errors.detach()[-1]}
        return ObjectiveResult((errors * weights).sum(), metrics, layer_means(by_token, weights))
