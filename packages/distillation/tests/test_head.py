"""Several losses of one product with the head: each that of the plain formula, and the product once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from wrinklefree.predictions import DensePredictions
from wrinklefree_distillation.losses.chunked_divergence import Comparison, DivergenceTerm
from wrinklefree_distillation.losses.divergences import forward
from wrinklefree_distillation.losses.head import head_losses
from wrinklefree_distillation.losses.task import CrossEntropyTerm

HIDDEN, VOCABULARY, CHUNK = 6, 11, 3


class Products(TorchDispatchMode):
    """Rows of each product of hidden states of this width with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default and args[0].shape[1] == HIDDEN:
            self.rows.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))


def _case() -> tuple[torch.Tensor, torch.Tensor, DensePredictions, torch.Tensor, list[torch.Tensor]]:
    """Hidden states [2, 5, h], head, teacher, labels and the positions of a task and of a divergence."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    teacher = DensePredictions(draw(2, 5, HIDDEN + 3), draw(VOCABULARY, HIDDEN + 3))
    labels = torch.tensor([[-100, 3, -100, 4, 9], [-100, -100, 7, 0, 1]])
    positions = [torch.tensor([0, 2, 3, 6, 7, 8]), torch.tensor([0, 1, 2, 3, 5, 6, 8])]
    return draw(2, 5, HIDDEN), draw(VOCABULARY, HIDDEN), teacher, labels, positions


def test_losses_and_gradients_are_those_of_the_plain_formulas() -> None:
    hidden, head, teacher, labels, (labelled, compared) = _case()
    plain = [x.double().requires_grad_() for x in (hidden, head)]
    logits = (plain[0] @ plain[1].T).flatten(0, 1)
    task = F.cross_entropy(logits[labelled], labels.flatten()[labelled + 1])
    p = (teacher.hidden.double() @ teacher.head_weight.double().T / 2).log_softmax(-1).flatten(0, 1)[compared]
    q = (logits[compared] / 2).log_softmax(-1)
    taught = 4 * F.kl_div(q, p, log_target=True, reduction="batchmean")
    (task + 10 * taught).backward()
    leaves = [x.clone().requires_grad_() for x in (hidden, head)]
    terms = [
        CrossEntropyTerm(labels, labelled),
        DivergenceTerm(teacher, compared, Comparison(forward, 2.0, CHUNK)),
    ]
    with Products() as products:
        losses = [found.mean for found in head_losses(*leaves, terms, CHUNK)]
    assert products.rows == [3, 3, 2]  # eight positions that any term takes, once, in chunks
    torch.testing.assert_close(torch.stack(losses).double(), torch.stack([task, taught]))
    (losses[0] + 10 * losses[1]).backward()
    for single, double in zip(leaves, plain, strict=True):
        assert single.grad is not None
        assert double.grad is not None
        torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-4, atol=1e-6)


def test_a_loss_alone_goes_back_alone() -> None:
    """As when the gradients of terms are measured: the graph stays, and the other term adds nothing."""
    hidden, head, teacher, labels, (labelled, compared) = _case()
    hidden.requires_grad_()
    of_task = CrossEntropyTerm(labels, labelled)
    of_teacher = DivergenceTerm(teacher, compared, Comparison(forward, 1.0, CHUNK))
    together = head_losses(hidden, head, [of_task, of_teacher], CHUNK)
    for loss, term in zip(together, (of_task, of_teacher), strict=True):
        (alone,) = head_losses(hidden, head, [term], CHUNK)
        (found,) = torch.autograd.grad(loss.mean, hidden, retain_graph=True)
        (expected,) = torch.autograd.grad(alone.mean, hidden)
        torch.testing.assert_close(found, expected)


def test_a_term_without_positions_is_0() -> None:
    hidden, head, teacher, labels, (labelled, _) = _case()
    nothing = DivergenceTerm(teacher, torch.arange(0), Comparison(forward, 1.0, CHUNK))
    losses = head_losses(hidden.requires_grad_(), head, [CrossEntropyTerm(labels, labelled), nothing], CHUNK)
    assert losses[1].mean.item() == 0
    assert not losses[1].by_token.counted.any()
    assert losses[0].mean.item() > 0


def test_losses_of_tokens_stand_where_the_tokens_are() -> None:
    hidden, head, teacher, labels, (labelled, compared) = _case()
    terms = [
        CrossEntropyTerm(labels, labelled),
        DivergenceTerm(teacher, compared, Comparison(forward, 2.0, CHUNK)),
    ]
    logits = (hidden @ head.T).flatten(0, 1)
    expected = F.cross_entropy(logits[labelled], labels.flatten()[labelled + 1], reduction="none")
    task, taught = head_losses(hidden.requires_grad_(), head, terms, CHUNK)
    assert torch.equal(task.by_token.counted, labels != -100)
    torch.testing.assert_close(task.by_token.values[task.by_token.counted], expected)
    assert torch.equal(taught.by_token.counted.flatten().nonzero().flatten(), compared + 1)
    for loss in (task, taught):
        values, counted = loss.by_token
        torch.testing.assert_close(values[counted].mean(), loss.mean.detach())
        assert not values.requires_grad
        assert not values[~counted].any()
