"""Forward KL between two models' predictions, row by row, with its gradient.

One definition for calibration and distillation. Where a kernel offers it, neither softmax is ever in memory
and the gradient takes the place of the logits (kernels.py); elsewhere PyTorch's operators say the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitnet_arch.kernels import kernel_for


def forward_kl_rows(logits: Tensor, expected: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """KL(softmax(expected) || softmax(logits)) in nats, float64 [rows], and `factor` times the gradient of
    their sum.

    Args:
        logits: [rows, vocabulary], without gradient; they are used up. The gradient has their dtype.
        expected: [rows, vocabulary], of any floating dtype.
        factor: above 0.
    """
    compute = kernel_for("divergence_rows", logits.dtype, logits, expected)
    if compute is None or expected.dtype is not logits.dtype:
        return _by_operators(logits, expected, factor)
    losses: Tensor = compute(logits, expected, factor)
    return losses, logits


def _by_operators(logits: Tensor, expected: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    found, wanted = (x.float().log_softmax(-1) for x in (logits, expected))
    shares = wanted.exp()
    losses = (shares * (wanted - found)).sum(-1, dtype=torch.float64)
    return losses, (found.exp() - shares).mul_(factor).to(logits.dtype)
