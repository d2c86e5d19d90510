"""Forward KL of rows: the kernel and PyTorch's operators, both beside torch's own in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet_arch import divergence
from bitnet_arch.divergence import forward_kl_rows

TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


def _logits(dtype: torch.dtype, rows: int = 5, vocabulary: int = 1001) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, rows, vocabulary, generator=generator).mul_(3).to(dtype)
    return both[0], both[1]


def _reference(logits: Tensor, expected: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    leaf = logits.double().requires_grad_()
    found, wanted = leaf.log_softmax(-1), expected.double().log_softmax(-1)
    losses = F.kl_div(found, wanted, log_target=True, reduction="none").sum(-1)
    (gradient,) = torch.autograd.grad(losses.sum() * factor, leaf)
    return losses.detach(), gradient


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("has_kernels", [True, False])
def test_kernel_and_operators_are_the_formula(
    dtype: torch.dtype, has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernels:
        monkeypatch.setattr(divergence, "kernel_for", lambda *args: None)
    logits, expected = _logits(dtype)
    losses, gradient = forward_kl_rows(used := logits.clone(), expected, 0.2)
    assert (gradient.data_ptr() == used.data_ptr()) == has_kernels  # in place, by the kernel
    assert losses.dtype is torch.float64
    assert gradient.dtype is dtype
    wanted_losses, wanted = _reference(logits, expected, 0.2)
    torch.testing.assert_close(losses, wanted_losses, rtol=1e-5, atol=1e-6)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(gradient.double(), wanted, rtol=tolerance, atol=tolerance * 1e-2)


def test_logits_of_other_dtypes_and_layouts() -> None:
    """What no kernel takes: a teacher in another precision, and every second row."""
    logits, expected = _logits(torch.float32, rows=6)
    for student, teacher in ((logits.clone(), expected.bfloat16()), (logits.clone()[::2], expected[::2])):
        wanted_losses, wanted = _reference(student, teacher, 1.0)
        losses, gradient = forward_kl_rows(student, teacher, 1.0)
        torch.testing.assert_close(losses, wanted_losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-6)
