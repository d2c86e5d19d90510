"""Alignment of the student's hidden states with the teacher's, layer by layer.

loss = sum_l w_l mean_t |s_lt - d_lt|^2 / |d_lt|^2, sum_l w_l = 1

over the outputs of all blocks (the last one after the final norm), with s the student's and d the
dense teacher's state of token t. Normalizing per token keeps the few tokens with huge activations
(attention sinks, up to 1000 times the median norm) from being the whole loss.
Weights: uniform w_l = 1/n; progressive w_l ~ l, since the last layers make the prediction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wrinklefree.config.schema import LayerWeighting, LayerwiseConfig
from wrinklefree.forward import Batch, ForwardResult
from wrinklefree.objectives.base import Objective, ObjectiveResult


def layer_weights(num_layers: int, weighting: LayerWeighting) -> Tensor:
    """Weights [num_layers] that sum to 1."""
    if weighting is LayerWeighting.uniform:
        return torch.full((num_layers,), 1.0 / num_layers)
    ramp = torch.arange(1, num_layers + 1, dtype=torch.float32)
    return ramp / ramp.sum()


def normalized_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over tokens of |student - teacher|^2 / |teacher|^2; both [batch, tokens, hidden]."""
    reference = teacher.float()
    error = (student.float() - reference).square().sum(-1)
    return (error / reference.square().sum(-1).clamp_min(1e-12)).mean()


class Layerwise(Objective):
    needs_teacher = True

    def __init__(self, config: LayerwiseConfig) -> None:
        self.weighting = config.layer_weighting

    def compute(self, batch: Batch, student: ForwardResult, teacher: ForwardResult | None) -> ObjectiveResult:
        if teacher is None:
            raise ValueError("layerwise was called without a teacher")
        pairs = list(zip(student.hidden_states[1:], teacher.hidden_states[1:], strict=True))
        errors = torch.stack([normalized_mse(s, t) for s, t in pairs])
        weights = layer_weights(len(pairs), self.weighting).to(errors.device)
        metrics = {"nmse_ratio": errors.detach().mean(), "last_nmse_ratio": errors.detach()[-1]}
        return ObjectiveResult((errors * weights).sum(), metrics)
