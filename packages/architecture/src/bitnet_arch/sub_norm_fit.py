"""Fitted SubLN: gains and floors that keep the full-precision model's function.

A naive SubLN (gain 1, floor eps) throws each token's magnitude away and ruins the model. Per site
(input x of a linear W, on a few thousand tokens):
1. floor: the smallest k for which scaling the tokens alone, y_t -> c y_t / sqrt(mean(x_t^2) + eps 4^k)
   with the best c, leaves a relative squared output error of at most `tolerance`;
2. gains: the least-squares solution of min_g sum_t |W (g * n_t) - W x_t|^2 with n_t the normalized
   input, i.e. [(W^T W) * (N^T N)] g = diag(W^T W N^T X), in float64 with a small ridge.
Teacher activations come from one pass of the unconverted model; a hook solves each site when its
input passes by, so no activation is kept: memory is one site's input plus two [in, in] matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch.families import SUB_NORM_SITES, blocks
from bitnet_arch.rounding import MIN_SCALE
from bitnet_arch.subln import SubLN
from bitnet_arch.token_ids import check_ids

MIN_FIT_TOKENS = 512
DEFAULT_TOLERANCE = 0.01
"""Relative squared output error per site that chooses the floor."""
RIDGE = 1e-4


@dataclass(frozen=True)
class SiteFit:
    """What was found for one SubLN: gain [features], floor exponent k, relative squared output error."""

    gain: Tensor
    log2_floor: int
    relative_error: float


def naive_fit(num_features: int) -> SiteFit:
    """Gain 1 and no floor: the SubLN that ruins a pretrained model, for comparison."""
    return SiteFit(torch.ones(num_features), 0, float("nan"))


@torch.no_grad()
def fit_sub_norms(
    model: nn.Module,
    input_ids: Tensor,
    eps: float,
    tolerance: float = DEFAULT_TOLERANCE,
    on_site: Callable[[str], None] = lambda name: None,
) -> dict[str, SiteFit]:
    """Solves every SubLN site of an unconverted model.

    Args:
        model: dense causal LM in evaluation mode.
        input_ids: [sequences, tokens], a few thousand tokens in all, run as one batch.
        eps: the model's RMSNorm epsilon.
        tolerance: relative squared error allowed to the floor of a site.
        on_site: called with the name of each finished site (progress).
    Returns:
        qualified name of the linear -> its fit.
    Raises:
        ValueError: too few tokens, or ids outside the vocabulary.
    """
    check_ids(input_ids, model.config.vocab_size, MIN_FIT_TOKENS)  # type: ignore[union-attr, arg-type]
    solved: dict[str, SiteFit] = {}
    hooks = []
    for block_name, block in blocks(model):
        for site in SUB_NORM_SITES:
            consumer, producer = (
                block.get_submodule(site.consumer),
                block.get_submodule(site.producer),
            )
            name = f"{block_name}.{site.consumer}"

            def solve(module: nn.Module, args: Any, name: str = name, source: Any = producer) -> None:
                max_floor = _max_log2_floor(source.weight)
                solved[name] = _solve_site(args[0], module.weight, eps, tolerance, max_floor)  # type: ignore[arg-type]
                on_site(name)

            hooks.append(consumer.register_forward_pre_hook(solve))
    try:
        model.model(input_ids=input_ids, use_cache=False)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return solved


def _max_log2_floor(producer_weight: Tensor) -> int:
    """Largest k for which the producer, divided by 2^k, keeps its absmean 4 times above the clamp."""
    room = float(producer_weight.float().abs().mean()) / (4 * MIN_SCALE)
    return int(math.log2(room)) if room > 1 else 0


def _solve_site(x: Tensor, weight: Tensor, eps: float, tolerance: float, max_log2_floor: int) -> SiteFit:
    x = x.reshape(-1, x.shape[-1]).float()
    weight = weight.float()
    mean_square = x.pow(2).mean(-1)
    y = x @ weight.t()
    if not y.any():  # a layer without effect (zeros): any gain is right
        return naive_fit(x.shape[1])
    log2_floor = _choose_floor(y.pow(2).sum(-1), mean_square, eps, tolerance, max_log2_floor)
    normalized = x * torch.rsqrt(mean_square + eps * 4.0**log2_floor).unsqueeze(-1)
    gain = _least_squares_gain(x, normalized, weight)
    error = ((normalized * gain) @ weight.t() - y).pow(2).sum() / y.pow(2).sum()
    return SiteFit(gain, log2_floor, error.item())


def _choose_floor(
    energy: Tensor, mean_square: Tensor, eps: float, tolerance: float, max_log2_floor: int
) -> int:
    """Smallest k whose per-token scaling a_t errs by at most `tolerance`; energy is |y_t|^2 [tokens]."""
    for log2_floor in range(max_log2_floor):
        scale = torch.rsqrt(mean_square + eps * 4.0**log2_floor)
        scale = scale * (energy * scale).sum() / (energy * scale.pow(2)).sum()
        if (energy * (1 - scale).pow(2)).sum() <= tolerance * energy.sum():
            return log2_floor
    return max_log2_floor


def _least_squares_gain(x: Tensor, normalized: Tensor, weight: Tensor) -> Tensor:
    weight_gram = (weight.t() @ weight).double()
    system = weight_gram * (normalized.t() @ normalized).double()
    target = (weight_gram * (normalized.t() @ x).double()).sum(1)
    system.diagonal().add_(RIDGE * system.diagonal().mean())
    solution, failed = torch.linalg.solve_ex(system, target)
    if failed or not solution.isfinite().all():
        raise ValueError(
            "the gains of a SubLN cannot be fitted: its inputs, or the weights after it, are extreme"
        )
    return solution.float()


def make_sub_norm(fit: SiteFit, eps: float, like: Tensor) -> SubLN:
    """The SubLN of a fit, on the device and in the dtype of `like`."""
    norm = SubLN(fit.gain.numel(), eps, fit.log2_floor, like.device, like.dtype)
    with torch.no_grad():
        norm.weight.copy_(fit.gain)
    return norm
