"""Adam with steps in units of each tensor's own size, linear warmup and cosine decay.

A rate of 0.01 moves a scale by about 1 % of the mean scale of its matrix per step, and a latent
weight by the same amount, whatever the magnitude of the model's weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch.rounding import MIN_SCALE
from wf_formats.errors import NotFiniteError
from wf_ptq.layers import ScaledLinear
from wf_ptq.options import Rates

_BETAS = (0.9, 0.95)
_EMBEDDING_EPS = 1.0
"""Added to the root of an embedding's second moment, whose gradients have mean square 1 (`even_out`). Without
it Adam moves the rows of tokens that the text lacks as far as all others, which harms other texts."""
_WARMUP_STEPS = 5
_MIN_SHARE = 0.02
_PEAK = "peak_lr"


def relative_adam(
    linears: Sequence[ScaledLinear],
    vectors: Sequence[nn.Parameter],
    rates: Rates,
    embeddings: Sequence[nn.Parameter] = (),
) -> torch.optim.Adam:
    groups: list[dict[str, Any]] = []
    for linear in linears:
        size = linear.scales.mean().item()
        if linear.latent is not None:
            groups.append({"params": [linear.latent], _PEAK: rates.latent * size})
        groups.append({"params": [linear.scales], _PEAK: rates.scale * size})
    groups += [{"params": [vector], _PEAK: rates.vector * _size(vector)} for vector in vectors]
    groups += [
        {"params": [table], _PEAK: rates.embedding * _size(table), "eps": _EMBEDDING_EPS}
        for table in embeddings
    ]
    return torch.optim.Adam(groups, lr=0.0, betas=_BETAS, fused=True)


def _size(parameter: nn.Parameter) -> float:
    """Mean magnitude."""
    return parameter.abs().mean().item()


def even_out(embeddings: Sequence[nn.Parameter]) -> None:
    """Their gradients, each divided by its root mean square."""
    for table in embeddings:
        assert table.grad is not None
        table.grad /= table.grad.square().mean().sqrt().clamp_(min=torch.finfo(table.dtype).tiny)


def set_rates(optimizer: torch.optim.Adam, step: int, num_steps: int) -> None:
    """The learning rates of step `step` of `num_steps`."""
    decay = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    share = max(_MIN_SHARE, min(1.0, (step + 1) / _WARMUP_STEPS) * decay)
    for group in optimizer.param_groups:
        group["lr"] = group[_PEAK] * share


_CAUSE = "hidden states overflowed, or the rates are too high"


def check_finite(loss: Tensor, what: str) -> None:
    """Raises: NotFiniteError, before a step could spread NaN into every parameter."""
    if not loss.isfinite():
        raise NotFiniteError(f"{what} is {loss.item()}: {_CAUSE}")


@contextmanager
def rates_are_to_blame() -> Iterator[None]:
    """Raises: NotFiniteError, which says so, for activations that are not finite."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{error}: {_CAUSE}") from error


@torch.no_grad()
def keep_positive(linears: Sequence[ScaledLinear]) -> None:
    """Scales of at least MIN_SCALE; those of a matrix of zeros, whose rate is 0, stay what they are."""
    scales: list[Tensor] = [linear.scales for linear in linears if linear.scales.any()]
    if scales:
        torch._foreach_clamp_min_(scales, MIN_SCALE)
