"""Linears that are called as no model of ours calls them: taken as they are, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_handler import DataError
from data_handler.influence import CountSketch, GradientSketcher, LossSums


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layers[0](nn.functional.one_hot(ids % 4, 4).float())
        if self.kind == "in place":
            x *= 2
            return self.layers[1](x).mul_(3)
        if self.kind == "twice":
            return self.layers[1](self.layers[1](x))
        if self.kind == "experts":
            return self.layers[1](x.flatten(0, 1)[:5]).sum() + x
        return x if self.kind == "unused" else self.layers[1](x)


def odd_losses(model: Any, batch: Any) -> LossSums:
    sums = model(batch["input_ids"]).square().flatten(1).sum(1)
    if model.kind == "infinite":
        sums = sums * torch.tensor([1.0, torch.inf])
    return LossSums(sums, torch.full((len(sums),), 3))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("twice", r"layers\.1\.weight is called several times"),
        ("experts", r"layers\.1\.weight gets \[5, 4\] of a batch of 2 examples"),
        ("unused", r"no gradient reached layers\.1\.weight \(1 of 2"),
        ("infinite", "loss of example 2 of 2 of the batch is inf"),
    ],
)
def test_what_cannot_be_told_apart_is_an_error(kind: str, said: str) -> None:
    sketcher = GradientSketcher(Odd(kind), None, 8, losses=odd_losses)
    with pytest.raises(DataError, match=said):
        sketcher.per_example({"input_ids": torch.arange(6).view(2, 3)})


def test_outputs_that_are_changed_in_place() -> None:
    torch.manual_seed(0)
    model, ids = Odd("in place"), torch.arange(6).view(2, 3)
    found = GradientSketcher(model, None, 8, losses=odd_losses).per_example({"input_ids": ids})
    grads: dict[str, list[Tensor]] = {"layers.0.weight": [], "layers.1.weight": []}
    for row in range(2):
        model.zero_grad()
        odd_losses(model, {"input_ids": ids[row : row + 1]}).of_examples().sum().backward()
        for name, kept in grads.items():
            weight_grad = model.get_parameter(name).grad
            assert weight_grad is not None
            kept.append(weight_grad.clone())
    expected = CountSketch(8, 0).of({name: torch.stack(kept) for name, kept in grads.items()})
    torch.testing.assert_close(found, expected)
