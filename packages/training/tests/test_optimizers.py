from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wrinklefree.config.optimizer import AdamW8bitConfig, AdamWConfig, MuonConfig, OptimizerConfig
from wrinklefree.forward import run_forward
from wrinklefree.optimizers import MuonWithAdamW, build_optimizer, parameter_kinds

CONFIGS = [AdamWConfig(), AdamW8bitConfig(), MuonConfig()]


def _step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.arange(24).view(2, 12)
    batch = {"input_ids": ids, "position_ids": torch.arange(12).expand(2, -1)}
    optimizer.zero_grad()
    run_forward(model, batch).last_hidden_state.square().mean().backward()
    model.lm_head.weight.grad = model.lm_head.weight.detach() * 0.01
    optimizer.step()


def test_parameters_are_sorted_once_each(tiny_qwen2: Callable[..., Any]) -> None:
    model = tiny_qwen2()
    kinds = parameter_kinds(model)
    assert [id(p) for p in kinds["embeddings"]] == [id(model.lm_head.weight)], "tied: once"
    assert len(kinds["matrices"]) == 2 * 7
    assert all(p.ndim == 1 for p in kinds["vectors"])
    assert sum(len(k) for k in kinds.values()) == len(list(model.parameters()))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
@pytest.mark.filterwarnings(
    # bitsandbytes probes for a CUDA library and says so where there is none.
    "ignore::UserWarning:bitsandbytes"
)
def test_state_round_trip_continues_equally(tiny_llama: Callable[..., Any], config: OptimizerConfig) -> None:
    model = tiny_llama()
    optimizer = build_optimizer(model, config, 1e-2)
    before = copy.deepcopy(model.state_dict())
    _step(model, optimizer)
    assert any(not torch.equal(a, before[n]) for n, a in model.state_dict().items())
    twin = tiny_llama()
    twin.load_state_dict(model.state_dict())
    resumed = build_optimizer(twin, config, 1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _step(model, optimizer)
    _step(twin, resumed)
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_muon_takes_the_block_matrices_only(tiny_llama: Callable[..., Any]) -> None:
    model = tiny_llama()
    optimizer = build_optimizer(model, MuonConfig(), 1e-2)
    assert isinstance(optimizer, MuonWithAdamW)
    _step(model, optimizer)
    block = model.model.layers[0].mlp.up_proj.weight
    assert set(optimizer.state[block]) == {"momentum_buffer"}
    assert set(optimizer.state[model.lm_head.weight]) == {"step", "exp_avg", "exp_avg_sq"}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = block.detach().clone()
    _step(model, optimizer)
    assert torch.equal(block, before), "a scheduler's learning rate reaches both parts"


def test_weight_decay_reaches_matrices_only(tiny_llama: Callable[..., Any]) -> None:
    optimizer = build_optimizer(tiny_llama(), AdamWConfig(weight_decay=0.1), 1e-2)
    decays = [(g["params"][0].ndim, g["weight_decay"]) for g in optimizer.param_groups]
    assert decays == [(2, 0.1), (2, 0.0), (1, 0.0)]


def test_unknown_schema_is_refused(tiny_llama: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="OptimizerConfig"):
        build_optimizer(tiny_llama(), OptimizerConfig(), 1e-2)
