"""Divergence of predictions from wanted ones, without the softmax of either in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitnet_arch.kernels import kernel_for


class Divergence(torch.autograd.Function):
    """Mean KL(softmax(expected) || softmax(logits)) in nats over the rows of [rows, vocabulary].

    The gradient of the logits is computed in the forward pass and takes their memory: they are used up.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, expected: Tensor) -> Tensor:
        factor = 1 / len(logits)
        if (compute := kernel_for("divergence_rows", logits.dtype, logits, expected)) is not None:
            grad = logits.detach()
            losses: Tensor = compute(grad, expected, factor)
        else:
            losses, grad = _divergence_rows(logits.detach(), expected, factor)
        ctx.save_for_backward(grad)
        return losses.mean().float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None


def _divergence_rows(logits: Tensor, expected: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    found, wanted = (x.float().log_softmax(-1) for x in (logits, expected))
    shares = wanted.exp()
    losses = (shares * (wanted - found)).sum(-1, dtype=torch.float64)
    return losses, (found.exp() - shares).mul_(factor).to(logits.dtype)
