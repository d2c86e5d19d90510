"""Kernels for codes and scales chosen apart against plain formulas in float64, on every instruction set."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ternary_kernels import training

pytestmark = pytest.mark.usefixtures("instruction_set")
SHAPES = [(1, 4, 4), (3, 20, 4), (5, 192, 64), (17, 60, None), (33, 7, None)]
"""Outputs, inputs, inputs of a group (None: one scale)."""


def latent_matrix(rows: int, cols: int, group: int | None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * cols)
    latent = torch.randn(rows, cols, generator=generator) * 2
    shape = (rows, cols // group) if group else ()
    return latent, torch.rand(shape, generator=generator) + 0.3


def by_group(x: Tensor, scales: Tensor) -> Tensor:
    return x.view(*scales.shape, -1) if scales.dim() else x


@pytest.mark.parametrize(("rows", "cols", "group"), SHAPES)
def test_codes_are_the_rounded_latent_weights(rows: int, cols: int, group: int | None, threads: None) -> None:
    latent, scales = latent_matrix(rows, cols, group)
    ratio = by_group(latent, scales) / scales.unsqueeze(-1)
    expected = ratio.round().clamp(-1, 1).to(torch.int8).view_as(latent)
    assert torch.equal(training.latent_codes(latent, scales), expected)


@pytest.mark.parametrize(("rows", "cols", "group"), SHAPES)
def test_gradients_of_latent_weights_and_scales(
    rows: int, cols: int, group: int | None, threads: None
) -> None:
    latent, scales = latent_matrix(rows, cols, group)
    grad = torch.randn(rows, cols, generator=torch.Generator().manual_seed(1))
    ratio = by_group(latent, scales).double() / scales.unsqueeze(-1).double()
    codes, wide = ratio.round().clamp(-1, 1), by_group(grad, scales).double()
    of_scale = wide * torch.where(ratio.abs() <= 1, codes - ratio, codes)
    expected = of_scale.sum(-1) if group else of_scale.sum()
    found = grad.clone()
    torch.testing.assert_close(
        training.latent_gradients(found, latent, scales).double(), expected, rtol=1e-5, atol=1e-4
    )
    assert torch.equal(found, torch.where(ratio.abs() <= 1.5, wide, 0).float().view_as(grad))


@pytest.mark.parametrize(("rows", "cols", "group"), SHAPES)
def test_gradients_of_the_scales_of_fixed_codes(
    rows: int, cols: int, group: int | None, threads: None
) -> None:
    latent, scales = latent_matrix(rows, cols, group)
    codes, grad = training.latent_codes(latent, scales), torch.randn(rows, cols)
    products = by_group(codes.double() * grad.double(), scales)
    expected = products.sum(-1) if group else products.sum()
    torch.testing.assert_close(
        training.code_gradients(grad, codes, scales).double(), expected, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(("size", "cols"), [(1, 1), (4, 16), (64, 130), (7, 33)])
def test_compensation_moves_errors_to_later_inputs(size: int, cols: int, threads: None) -> None:
    generator = torch.Generator().manual_seed(size)
    weights, scales = (
        torch.randn(size, cols, generator=generator),
        torch.rand(cols, generator=generator) + 0.3,
    )
    factors = torch.randn(size, size, generator=generator).mul_(0.1).triu_().add_(torch.eye(size))
    errors = weights.clone()
    codes = training.compensate(errors, factors, scales)
    # Whatever was rounded: the codes and errors satisfy the recursion, and each code is the nearest.
    values = weights.double() - factors.triu(1).t().double() @ errors.double()
    diagonal = factors.diagonal().double().unsqueeze(1)
    torch.testing.assert_close(errors.double(), (values - codes * scales) / diagonal, rtol=1e-4, atol=1e-5)
    assert (((values / scales).clamp(-1, 1) - codes).abs() <= 0.5001).all()


@pytest.mark.parametrize(("size", "cols"), [(1, 1), (4, 16), (64, 130), (7, 33)])
def test_descent_never_raises_the_error_and_keeps_the_gradient(size: int, cols: int, threads: None) -> None:
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randn(2 * size, size, generator=generator)
    own, scales = inputs.t() @ inputs, torch.rand(cols, generator=generator) + 0.3
    weights = torch.randn(size, cols, generator=generator)
    codes = (weights / scales).round().clamp(-1, 1)

    def gradient_of(codes: Tensor) -> Tensor:
        return own.double() @ (codes * scales - weights).double()

    def error_of(codes: Tensor) -> Tensor:
        return ((codes * scales - weights) * gradient_of(codes)).sum(0)

    before, gradient = error_of(codes), gradient_of(codes).float()
    training.descend(codes, gradient, own, scales)
    assert (error_of(codes) <= before + 1e-4).all()
    assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    torch.testing.assert_close(gradient.double(), gradient_of(codes), rtol=1e-3, atol=1e-3 * size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 17, 1000, 3001])
def test_divergence_and_its_gradient(size: int, dtype: torch.dtype, threads: None) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = (torch.randn(5, size, generator=generator) * 4).to(dtype)
    expected = (torch.randn(5, size, generator=generator) * 4).to(dtype)
    wide = logits.double().requires_grad_()
    losses = F.kl_div(
        wide.log_softmax(-1), expected.double().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    (losses.sum() * 0.25).backward()
    assert wide.grad is not None
    kept = logits.clone()
    torch.testing.assert_close(
        training.divergence_rows(kept, expected, None), losses.detach(), rtol=1e-5, atol=2e-6
    )
    assert torch.equal(kept, logits)
    training.divergence_rows(kept, expected, 0.25)
    torch.testing.assert_close(
        kept.double(), wide.grad, rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-6
    )


def test_the_divergence_of_equal_logits_is_zero_and_of_nan_is_nan() -> None:
    logits = torch.randn(3, 100)
    logits[1, 7] = torch.nan
    found = training.divergence_rows(logits, logits.clone(), None)
    assert found[0] == found[2] == 0
    assert found[1].isnan()


def test_what_does_not_fit_is_refused() -> None:
    latent, scales = latent_matrix(4, 8, 4)
    with pytest.raises(ValueError, match=r"scales \[4, 3\] do not fit a matrix \[4, 8\]"):
        training.latent_codes(latent, torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"grad is torch\.float64"):
        training.latent_gradients(latent.double(), latent, scales)
    with pytest.raises(ValueError, match=r"factors is \[3, 3\], not \[4, 4\]"):
        training.compensate(torch.ones(4, 8), torch.ones(3, 3), torch.ones(8))
    with pytest.raises(ValueError, match=r"expected is torch\.bfloat16"):
        training.divergence_rows(torch.ones(2, 3), torch.ones(2, 3).bfloat16(), None)
