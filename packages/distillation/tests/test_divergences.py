"""Divergences against plain formulas in float64 and PyTorch's autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wrinklefree.capture import ForwardResult
from wrinklefree.objectives.base import PLAIN as PLAIN_VIEW
from wrinklefree.objectives.base import Pass
from wrinklefree.predictions import DensePredictions, SparsePredictions
from wrinklefree_distillation.losses.chunked_divergence import Comparison, chunked_divergence
from wrinklefree_distillation.losses.divergences import divergence_rows
from wrinklefree_distillation.objectives.logits_distill import LogitsDistill, LogitsDistillConfig
from wrinklefree_distillation.options import Divergence
from wrinklefree_distillation.tokens import Tokens

BETA, ALPHA = 0.3, 0.1


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


PLAIN: dict[Divergence, Callable[[Tensor, Tensor], Tensor]] = {
    Divergence.forward: _kl,
    Divergence.reverse: lambda p, q: _kl(q, p),
    Divergence.js: lambda p, q: (
        BETA * _kl(p, BETA * p + (1 - BETA) * q) + (1 - BETA) * _kl(q, BETA * p + (1 - BETA) * q)
    ),
    Divergence.skew_forward: lambda p, q: _kl(p, ALPHA * p + (1 - ALPHA) * q),
    Divergence.skew_reverse: lambda p, q: _kl(q, (1 - ALPHA) * p + ALPHA * q),
}


def _models(hidden: int = 6, vocabulary: int = 11) -> tuple[Tensor, Tensor, DensePredictions]:
    """States [2, 5, h] and head of a student, and a wider teacher's predictions; float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    student, head = draw(2, 5, hidden), draw(vocabulary, hidden)
    return student, head, DensePredictions(draw(2, 5, hidden + 3), draw(vocabulary, hidden + 3))


def _how(kind: Divergence, temperature: float = 2.0, chunk: int = 3) -> Comparison:
    return Comparison(divergence_rows(kind, BETA, ALPHA), temperature, chunk)


@pytest.mark.parametrize("kind", list(Divergence))
def test_chunked_losses_and_gradients_are_those_of_the_plain_formula(kind: Divergence) -> None:
    hidden, head, teacher = _models()
    positions = torch.tensor([0, 1, 2, 4, 6, 7, 8])
    plain = [x.clone().requires_grad_() for x in (hidden, head)]
    p = (teacher.hidden @ teacher.head_weight.T / 2).softmax(-1).flatten(0, 1)[positions]
    q = (plain[0] @ plain[1].T / 2).softmax(-1).flatten(0, 1)[positions]
    expected = 4 * PLAIN[kind](p, q).mean()
    (3 * expected).backward()
    chunked = [x.float().requires_grad_() for x in (hidden, head)]
    in_single = DensePredictions(teacher.hidden.float(), teacher.head_weight.float())
    loss = chunked_divergence(*chunked, in_single, positions, _how(kind)).mean
    (3 * loss).backward()
    torch.testing.assert_close(loss, expected.float())
    for single, double in zip(chunked, plain, strict=True):
        assert single.grad is not None
        assert double.grad is not None
        torch.testing.assert_close(single.grad, double.grad.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", list(Divergence))
def test_equal_models_have_no_divergence_and_no_gradient(kind: Divergence) -> None:
    hidden, head, _ = _models()
    hidden, head = hidden.float().requires_grad_(), head.float().requires_grad_()
    teacher = DensePredictions(hidden.detach(), head.detach())
    loss = chunked_divergence(hidden, head, teacher, torch.arange(10), _how(kind)).mean
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert hidden.grad is not None
    assert hidden.grad.abs().max() < 1e-6


@pytest.mark.parametrize("kind", list(Divergence))
def test_impossible_tokens_overflow_nowhere(kind: Divergence) -> None:
    """Probabilities that are 0 in float32 on either side, or on both."""
    logits = torch.tensor([[[200.0, 0, 0, 0]], [[0.0, 200, 0, 0]]])
    head = torch.eye(4).requires_grad_()
    hidden = logits.clone().requires_grad_()
    teacher = DensePredictions(logits.flip(0), torch.eye(4))
    loss = chunked_divergence(hidden, head, teacher, torch.arange(2), _how(kind, temperature=1.0)).mean
    loss.backward()
    assert loss.isfinite()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_no_position_gives_zero() -> None:
    hidden, head, teacher = _models()
    hidden.requires_grad_()
    loss = chunked_divergence(hidden, head, teacher, torch.arange(0), _how(Divergence.forward)).mean
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_weighted_ids_give_the_gradient_of_the_distribution_that_they_are() -> None:
    """All ids with their probabilities: forward KL but for the teacher's entropy."""
    hidden, head, teacher = _models()
    p = (teacher.hidden @ teacher.head_weight.T).softmax(-1)
    sparse = SparsePredictions(torch.arange(11).expand(2, 5, 11), p)
    how, gradients, losses = _how(Divergence.forward, temperature=1.0), [], []
    for predictions in (teacher, sparse):
        leaf = hidden.clone().requires_grad_()
        loss = chunked_divergence(leaf, head, predictions, torch.arange(10), how).mean
        loss.backward()
        gradients.append(leaf.grad)
        losses.append(loss)
    entropy = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(losses[1] - entropy.float(), losses[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("tokens", "factor"), [(Tokens.labelled, 1.5), (Tokens.every, 1.0)])
def test_a_mean_over_labels_counts_by_the_batchs_share_of_them(tokens: Tokens, factor: float) -> None:
    """Supervised batches say it; passes of a step have different numbers of labels."""
    hidden, head, teacher = _models()
    ids = torch.arange(10).view(2, 5)
    view = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(5).expand(2, -1)}
    student, taught = ForwardResult(1, {1: hidden}, head), ForwardResult(1, predictions=teacher)
    objective = LogitsDistill(LogitsDistillConfig(tokens=tokens))
    plain = objective.compute({PLAIN_VIEW: Pass(view, student, taught)})
    counted = objective.compute(
        {PLAIN_VIEW: Pass(view | {"label_weight": torch.tensor(1.5)}, student, taught)}
    )
    torch.testing.assert_close(counted.loss, plain.loss * factor)
    torch.testing.assert_close(counted.metrics["divergence_nats"], plain.metrics["divergence_nats"] * factor)
