"""What becomes of a gradient before it is a sketch: what the optimizer would make of it.

    plain      g
    scaled     g / (sqrt(v) + eps)     the diagonal of the curvature, as Adam knows it
    direction  m' / (sqrt(v') + eps)   Adam's step if g came next (Xia et al. 2024, LESS, arXiv 2402.04333)

with v the optimizer's second moments and m the first, both corrected for their start at zero, and m' and v'
what g makes of them.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data_handler.errors import DataRequestError


class Preconditioner(Protocol):
    def __call__(self, name: str, gradients: Tensor) -> Tensor:
        """float32 [n, out, in], gradients of the matrix `name` -> the same shape.

        Raises: DataRequestError for a matrix of which nothing is known.
        """
        ...


class GradientKind(StrEnum):
    """Which gradients an estimator wants."""

    plain = "plain"
    scaled = "scaled"
    direction = "direction"

    def preconditioner(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        *,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
    ) -> Preconditioner | None:
        """Of an Adam, as it stands when gradients are taken; None for plain gradients.

        Args:
            betas, eps: of an optimizer that does not have them in its groups.
        """
        if self is GradientKind.plain:
            return None
        kind = SecondMoments if self is GradientKind.scaled else AdamDirection
        return kind(optimizer, model, betas=betas, eps=eps)


class _Moments(NamedTuple):
    """first, second: float32 [out, in], as the optimizer keeps them; step: updates so far."""

    first: Tensor
    second: Tensor
    step: int
    beta1: float
    beta2: float
    eps: float


class _AdamState:
    """An optimizer's moments by the names of the parameters.

    Args:
        betas, eps: of an optimizer that does not have them in its groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        *,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
    ) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._optimizer = optimizer
        self._settings = {
            names[id(parameter)]: (parameter, betas or group.get("betas"), eps or group.get("eps"))
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in names
        }

    def _moments(self, name: str, shape: torch.Size) -> _Moments:
        kind = type(self._optimizer).__name__
        if name not in self._settings:
            raise DataRequestError(f"{kind} does not train {name}; choose matrices that it does")
        parameter, betas, eps = self._settings[name]
        state: dict[str, Any] = self._optimizer.state.get(parameter, {})
        first, second = state.get("exp_avg"), state.get("exp_avg_sq")
        if first is None or second is None or not state.get("step"):
            raise DataRequestError(
                f"{kind} has no moments of {name} (Muon keeps none, and before its first step none has): "
                "choose other matrices, take plain gradients, or wait for a step"
            )
        if not second.is_floating_point() or second.numel() != math.prod(shape):
            raise DataRequestError(
                f"{kind} keeps the moments of {name} in codes ({second.dtype}): train with moments of 32 or "
                "16 bits, or take plain gradients"
            )
        if betas is None or eps is None:
            raise DataRequestError(f"{kind} does not tell its betas and eps; give them")
        step = int(state["step"])
        beta1, beta2 = betas
        return _Moments(first.float().view(shape), second.float().view(shape), step, beta1, beta2, eps)


class SecondMoments(_AdamState):
    """Gradients over sqrt(v) + eps."""

    def __call__(self, name: str, gradients: Tensor) -> Tensor:
        known = self._moments(name, gradients.shape[1:])
        second = known.second / (1 - known.beta2**known.step)
        return gradients / (second.sqrt() + known.eps)


class AdamDirection(_AdamState):
    """Adam's step, per unit of learning rate and without decay, if each gradient came next."""

    def __call__(self, name: str, gradients: Tensor) -> Tensor:
        known = self._moments(name, gradients.shape[1:])
        step = known.step + 1
        first = torch.lerp(gradients, known.first, known.beta1) / (1 - known.beta1**step)
        second = torch.lerp(gradients.square(), known.second, known.beta2) / (1 - known.beta2**step)
        return first / (second.sqrt() + known.eps)
