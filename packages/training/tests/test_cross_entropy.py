"""The chunked loss against torch's own cross-entropy and autograd, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from wrinklefree import cross_entropy
from wrinklefree.cross_entropy import chunked_cross_entropy, cross_entropy_of_predictions


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_loss_and_gradients_equal_the_plain_ones(chunk: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 9, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(21, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 21, (2, 9), generator=generator)
    labels[0, 3] = labels[1, 0] = labels[1, 8] = -100
    ours = [t.clone().requires_grad_() for t in (hidden, weight)]
    plain = [t.clone().requires_grad_() for t in (hidden, weight)]
    loss = chunked_cross_entropy(*ours, labels, chunk)
    logits = plain[0][:, :-1] @ plain[1].T
    expected = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    (loss * 3).backward()
    (expected * 3).backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_labels", [0, 1, 7])
def test_answers_alone_compute_their_own_rows(num_labels: int) -> None:
    """Other rows are not numbers here, which whatever is computed of them would show."""
    hidden, weight = torch.randn(2, 9, 8), torch.randn(21, 8, requires_grad=True)
    labels = torch.full((2, 9), -100)
    places = torch.randperm(8)[:num_labels]
    labels[0, places + 1] = torch.randint(0, 21, (num_labels,))
    plain = (hidden[0, places] @ weight.T, labels[0, places + 1])
    expected = F.cross_entropy(*plain, reduction="sum") / max(1, num_labels)
    expected_grad = torch.autograd.grad(expected, weight)[0]
    shown = torch.full_like(hidden, torch.nan) if num_labels else hidden.clone()
    shown[0, places] = hidden[0, places]
    loss = chunked_cross_entropy(shown.requires_grad_(), weight, labels, 4)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(weight.grad, expected_grad)
    assert torch.count_nonzero(shown.grad[0].abs().sum(-1)) == num_labels
    assert not shown.grad[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chosen_predictions_have_shares_and_a_token_that_never_comes(dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(7, 8, dtype=dtype), torch.randn(21, 8, dtype=dtype)
    targets = torch.tensor([3, 1, -100, 20, 0, 2, 3])
    shares = torch.rand(7)
    ours = [t.clone().requires_grad_() for t in (hidden, weight)]
    plain = [t.double().requires_grad_() for t in (hidden, weight)]
    loss, losses = cross_entropy_of_predictions(*ours, targets, shares, 3, never=5)
    logits = plain[0] @ plain[1].T
    logits = logits.masked_fill(torch.arange(21) == 5, -torch.inf)
    expected = F.cross_entropy(logits, targets, reduction="none")
    (2 * loss).backward()
    (2 * (expected * shares).sum()).backward()
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.double(), (expected * shares).sum(), rtol=1e-5, atol=0)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5)
    assert not ours[1].grad[5].any()


def test_loss_without_gradients() -> None:
    hidden, weight = torch.randn(1, 4, 8), torch.randn(5, 8)
    labels = torch.tensor([[0, 1, 2, 3]])
    loss = chunked_cross_entropy(hidden, weight, labels, 2)
    expected = F.cross_entropy((hidden[0, :-1] @ weight.T), labels[0, 1:])
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = cross_entropy.cross_entropy_rows

    def spy(logits: torch.Tensor, targets: torch.Tensor, factor: float | None) -> Any:
        asked.append(factor is not None)
        return plain(logits, targets, factor)

    monkeypatch.setattr(cross_entropy, "cross_entropy_rows", spy)
    hidden, weight = torch.randn(1, 4, 8), torch.randn(5, 8, requires_grad=True)
    labels = torch.tensor([[0, 1, 2, 3]])
    with torch.no_grad():
        without = chunked_cross_entropy(hidden, weight, labels, 9)
    assert not without.requires_grad
    torch.testing.assert_close(without, chunked_cross_entropy(hidden, weight, labels, 9))
    assert asked == [False, True]


def test_all_labels_ignored_gives_zero() -> None:
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    loss = chunked_cross_entropy(hidden, torch.randn(5, 8), torch.full((1, 4), -100), 2)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()
