"""Relations of attention: by hand, beside autograd, and which tokens and layers they touch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from wrinklefree.capture import Shape, View
from wrinklefree.forward import run_forward, shape_of
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree_distillation.losses.relations import relation_loss
from wrinklefree_distillation.objectives.attention_distill import AttentionDistill, AttentionDistillConfig
from wrinklefree_distillation.tokens import Tokens, predicting_positions, visible_tokens


def _causal(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Every token sees those before it, and counts."""
    visible = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)
    return visible, torch.ones(batch, length, dtype=torch.bool)


def test_a_relation_of_two_tokens_by_hand() -> None:
    """One head of width 1. Row 0 sees itself alone. Row 1: the student's scores are 2 x 1 and 2 x 2, so that
    R = (1, e^2) / (1 + e^2); the teacher's are equal, so that R = (1/2, 1/2)."""
    student = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    teacher = torch.tensor([3.0, 3.0]).reshape(1, 2, 1, 1)
    first, second = 1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)
    second_row = 0.5 * math.log(0.5 / first) + 0.5 * math.log(0.5 / second)
    loss = relation_loss(student, teacher, *_causal(1, 2), num_heads=1)
    assert loss.item() == pytest.approx(second_row / 2, rel=1e-6)


def test_loss_and_gradient_are_those_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 6, 4, 3, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(2, 6, 2, 4, dtype=torch.float64)  # another width
    visible, counted = _causal(2, 6)
    visible, counted = visible.clone(), counted.clone()
    visible[0, 3:, :3] = False  # a document of its own
    counted[1, 4:] = False  # padding
    expected = _plain(student, teacher, visible, counted, num_heads=2)
    (3 * expected).backward()
    single = student.detach().float().requires_grad_()
    loss = relation_loss(single, teacher.float(), visible, counted, num_heads=2)
    (3 * loss).backward()
    torch.testing.assert_close(loss, expected.float())
    assert student.grad is not None
    torch.testing.assert_close(single.grad, student.grad.float(), rtol=1e-4, atol=1e-6)


def _plain(student: Tensor, teacher: Tensor, visible: Tensor, counted: Tensor, num_heads: int) -> Tensor:
    relations = []
    for matrix in (student, teacher):
        heads = matrix.flatten(-2).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        scores = heads @ heads.transpose(-1, -2) / math.sqrt(heads.shape[-1])
        relations.append(scores.masked_fill(~visible.unsqueeze(1), -1e300).softmax(-1))
    q, p = relations
    rows = torch.where(visible.unsqueeze(1), p * (p / q.clamp_min(1e-300)).log(), 0.0).sum(-1)
    return rows.mean(1)[counted].mean()


def _batch(model: Any, length: int = 12) -> View:
    ids = torch.randint(0, model.config.vocab_size, (2, length))
    positions = torch.arange(length).expand(2, -1)
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}


def _loss(student: Any, teacher: Any, batch: View, **options: Any) -> Tensor:
    manager = ObjectiveManager.from_config({"attention_distill": AttentionDistillConfig(**options)})
    manager.check(shape_of(student), shape_of(teacher))
    return manager.compute(batch, 0, partial(run_forward, student), partial(run_forward, teacher)).loss


def test_equal_models_have_no_loss_and_no_gradient(tiny_llama: Any) -> None:
    student, teacher = tiny_llama(), tiny_llama()
    loss = _loss(student, teacher, _batch(student))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in student.parameters())


def test_gradients_end_at_the_layer(tiny_llama: Any) -> None:
    student, teacher = tiny_llama(num_hidden_layers=4), tiny_llama(num_hidden_layers=3)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    _loss(student, teacher, _batch(student), layer=-2).backward()
    touched = [
        any(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())
        for layer in student.model.layers
    ]
    assert touched == [True, True, True, False]
    attention = student.model.layers[2].self_attn
    assert all(getattr(attention, f"{name}_proj").weight.grad.any() for name in "qkv")
    assert attention.o_proj.weight.grad is None
    assert student.model.layers[2].mlp.up_proj.weight.grad is None


def test_padding_and_other_documents_change_nothing(tiny_llama: Any) -> None:
    student, teacher = tiny_llama(), tiny_llama()
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    batch = _batch(student)
    alone = _loss(student, teacher, batch)
    padded = {name: torch.cat([x, torch.zeros_like(x[:, :5])], dim=1) for name, x in batch.items()}
    padded["position_ids"] = torch.arange(17).expand(2, -1)
    padded["attention_mask"] = torch.ones(2, 17, dtype=torch.long)
    padded["attention_mask"][:, 12:] = 0
    torch.testing.assert_close(_loss(student, teacher, padded), alone)
    packed = {name: x.reshape(1, 24) for name, x in batch.items()}
    torch.testing.assert_close(_loss(student, teacher, packed), alone)


def test_which_predictions_count() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    labels = torch.tensor([[-100, 7, -100, -100, 8, 9]])
    view = {"input_ids": positions, "position_ids": positions, "labels": labels}
    assert predicting_positions(view, Tokens.labelled).tolist() == [0, 3, 4]
    assert predicting_positions(view, Tokens.every).tolist() == [0, 1, 3, 4]
    view["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0]])
    assert predicting_positions(view, Tokens.every).tolist() == [0, 1, 3]
    sees = visible_tokens(view)[0].int().tolist()
    assert sees[2] == [1, 1, 1, 0, 0, 0]
    assert sees[4] == [0, 0, 0, 1, 1, 0]


def test_heads_that_do_not_divide_the_widths() -> None:
    objective = AttentionDistill(AttentionDistillConfig(num_relation_heads=5))
    smollm = Shape(30, 576, 49152, query_size=576, key_size=192)
    message = r"num_relation_heads=5 .* 576 and 192 of the student.*possible: 1, 2, 3, 4, 6, 8, 12, "
    with pytest.raises(ValueError, match=message):
        objective.check(smollm, smollm)
    AttentionDistill(AttentionDistillConfig()).check(smollm, smollm)
    none = AttentionDistillConfig(query_weight=0, key_weight=0, value_weight=0)
    with pytest.raises(ValueError, match="value_weight are all 0"):
        AttentionDistill(none).check(smollm, smollm)
