"""Divergence of predictions from wanted ones, without the softmax of either in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitnet_arch.divergence import forward_kl_rows


class Divergence(torch.autograd.Function):
    """Mean KL(softmax(expected) || softmax(logits)) in nats over the rows of [rows, vocabulary].

    The gradient of the logits is computed in the forward pass and takes their memory: they are used up.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, expected: Tensor) -> Tensor:
        losses, grad = forward_kl_rows(logits.detach(), expected, 1 / len(logits))
        ctx.save_for_backward(grad)
        return losses.mean().float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return (grad if grads[0] == 1 else grad * grads[0].to(grad.dtype)), None
