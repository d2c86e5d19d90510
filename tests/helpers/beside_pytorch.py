"""Kernels beside PyTorch's operators in the same precision, both against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

Results = tuple[Tensor, ...]
Function = Callable[..., Tensor]
Make = Callable[[int], tuple[list[Tensor], Tensor]]
"""Seed -> inputs of a function, and what comes from above its gradient."""


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Values of many magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    return (x * torch.exp(torch.randn(*shape, generator=generator))).to(dtype)


def no_worse_than_pytorch(runs: list[tuple[Results, Results, Results]]) -> None:
    """Root mean square errors over all runs are at most twice those of PyTorch in the same precision.

    runs: what was found, what PyTorch finds, and what is exact.
    """
    for part in range(len(runs[0][0])):
        found, theirs, exact = (
            torch.cat([run[kind][part].cpu().double().flatten() for run in runs]) for kind in range(3)
        )
        rounding = torch.finfo(runs[0][0][part].dtype).eps * exact.square().mean().sqrt()
        error, allowed = ((x - exact).square().mean().sqrt() for x in (found, theirs))
        assert error <= max(2 * allowed, rounding)


def results(function: Function, inputs: list[Tensor], upstream: Tensor) -> Results:
    """What a function returns, and the gradients of its inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, upstream.to(y.dtype)))


def compare(ours: Function, reference: Function, make: Make, seeds: Iterable[int], device: str) -> None:
    """Both on what `make` gives for each of the seeds, ours on the device."""
    runs = []
    for seed in seeds:
        inputs, upstream = make(seed)
        exact = results(reference, [x.double() for x in inputs], upstream.double())
        found = results(ours, [x.to(device) for x in inputs], upstream.to(device))
        runs.append((found, results(reference, inputs, upstream), exact))
    no_worse_than_pytorch(runs)


def norm_case(*shape: int, dtype: torch.dtype) -> tuple[Function, Make]:
    """PyTorch's RMSNorm with an epsilon of 1e-5, and its inputs."""

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        return (F.rms_norm(x.to(weight.dtype), shape[-1:], weight, 1e-5)).to(x.dtype)

    def make(seed: int) -> tuple[list[Tensor], Tensor]:
        x, upstream = (random(*shape, dtype=dtype, seed=seed + i) for i in (0, 1))
        return [x, random(shape[-1], seed=seed + 2)], upstream

    return reference, make


def swiglu_case(*shape: int, dtype: torch.dtype) -> tuple[Function, Make]:
    """PyTorch's SwiGLU, and its inputs."""

    def make(seed: int) -> tuple[list[Tensor], Tensor]:
        gate, up, upstream = (random(*shape, dtype=dtype, seed=seed + i) for i in range(3))
        return [gate, up], upstream

    return lambda gate, up: F.silu(gate) * up, make
