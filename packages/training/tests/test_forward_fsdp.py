"""FSDP on one rank (gloo): gradients are those of the plain model, whatever was captured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from wrinklefree.capture import EVERY_LAYER, LAST_HIDDEN_STATE, Capture, Layers, View
from wrinklefree.forward import run_forward
from wrinklefree.objectives.layerwise import LayerwiseConfig
from wrinklefree.objectives.manager import ObjectiveManager

Loss = Callable[[Any, Any, list[View]], Tensor]
QKV_OF_ONE = Capture(qkv=Layers.of(1))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    store = tmp_path_factory.mktemp("rendezvous") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def _cross_entropy(model: Any, view: View) -> Tensor:
    result = run_forward(model, view, LAST_HIDDEN_STATE)
    logits = result.last_hidden_state @ result.head_weight.t()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), view["input_ids"].flatten())


def _squares(model: Any, view: View, capture: Capture) -> Tensor:
    result = run_forward(model, view, capture)
    captured = [t for qkv in result.qkv.values() for t in (qkv.query, qkv.key, qkv.value)]
    captured += result.hidden_states.values()
    return torch.stack([(1 + i) * t.square().mean() for i, t in enumerate(captured)]).sum()


def _layerwise(model: Any, teacher: Any, views: list[View]) -> Tensor:
    manager = ObjectiveManager.from_config({"layerwise": LayerwiseConfig()})
    return manager.compute(views[0], 0, partial(run_forward, model), partial(run_forward, teacher)).loss


LOSSES: dict[str, Loss] = {
    "layerwise": _layerwise,
    "two views": lambda model, _, views: _cross_entropy(model, views[0]) + _cross_entropy(model, views[1]),
    "qkv alone": lambda model, _, views: _squares(model, views[0], QKV_OF_ONE),
    "qkv and states": lambda model, _, views: _squares(model, views[0], Capture(EVERY_LAYER, EVERY_LAYER)),
    "qkv of another view": lambda model, _, views: (
        _cross_entropy(model, views[0]) + _squares(model, views[1], QKV_OF_ONE)
    ),
}


def _gradients(model: Any, loss: Callable[[Any], Tensor]) -> dict[str, Tensor | None]:
    """Of two backward passes."""
    for _ in range(2):
        loss(model).backward()
    return {name: _whole(parameter.grad) for name, parameter in model.named_parameters()}


def _whole(gradient: Tensor | None) -> Tensor | None:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*FSDP2-wrapped module .* returned a view")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_plain_model(
    tiny_llama: Any, mesh: DeviceMesh, name: str, recompute: bool
) -> None:
    plain, teacher = tiny_llama().train(), tiny_llama()
    with torch.no_grad():
        teacher.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    if recompute:
        plain.gradient_checkpointing_enable({"use_reentrant": False})
    sharded = copy.deepcopy(plain)
    for block in sharded.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    generator = torch.Generator().manual_seed(1)
    views = [
        {
            "input_ids": torch.randint(0, plain.config.vocab_size, (2, 9), generator=generator),
            "position_ids": torch.arange(9).expand(2, -1),
        }
        for _ in range(2)
    ]
    expected, found = (
        _gradients(model, lambda model: LOSSES[name](model, teacher, views)) for model in (plain, sharded)
    )
    assert any(grad is not None and grad.any() for grad in expected.values())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
