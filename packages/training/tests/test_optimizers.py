from __future__ import annotations

import copy
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wf_formats.errors import NotFiniteError, RequestError
from wrinklefree.compact_adamw import CompactAdamW
from wrinklefree.config.distributed import Accelerator, DistributedConfig
from wrinklefree.config.optimizer import (
    AdamW8bitConfig,
    AdamWConfig,
    MomentKind,
    MuonConfig,
    OptimizerConfig,
)
from wrinklefree.forward import run_forward
from wrinklefree.optimizers import MuonWithAdamW, build_optimizer, check_device, parameter_kinds

NARROW = {"hidden_size": 64, "intermediate_size": 128}
"""Where a processor has no bfloat16, Muon takes seconds for larger matrices."""
CONFIGS = [
    AdamWConfig(),
    AdamWConfig(state=MomentKind.bf16),
    AdamWConfig(state=MomentKind.int8),
    AdamW8bitConfig(),
    MuonConfig(),
]


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


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{type(c).__name__}-{getattr(c, 'state', '')}")
@pytest.mark.filterwarnings(
    # bitsandbytes probes for a CUDA library and says so where there is none.
    "ignore::UserWarning:bitsandbytes"
)
def test_state_round_trip_continues_equally(tiny_llama: Callable[..., Any], config: OptimizerConfig) -> None:
    model = tiny_llama(**NARROW)
    optimizer = build_optimizer(model, config, 1e-2)
    before = copy.deepcopy(model.state_dict())
    _step(model, optimizer)
    assert any(not torch.equal(a, before[n]) for n, a in model.state_dict().items())
    twin = tiny_llama(**NARROW)
    twin.load_state_dict(model.state_dict())
    resumed = build_optimizer(twin, config, 1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _step(model, optimizer)
    _step(twin, resumed)
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_muon_takes_the_block_matrices_only(tiny_llama: Callable[..., Any]) -> None:
    model = tiny_llama(**NARROW)
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


SMALL = [MomentKind.bf16, MomentKind.int8]


def _bytes_of_state(optimizer: torch.optim.Optimizer) -> int:
    """Of the moments, without the count of steps."""
    moments = (state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    return sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize(("kind", "of_large"), [("float32", 8), ("bf16", 4), ("int8", 2 + 2 / 256)])
def test_memory_of_the_state(tiny_llama: Callable[..., Any], kind: str, of_large: float) -> None:
    model = tiny_llama()
    optimizer = build_optimizer(model, AdamWConfig(state=MomentKind(kind)), 1e-2)
    _step(model, optimizer)
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert _bytes_of_state(optimizer) == sum(n * (of_large if n >= 4096 else 8) for n in sizes)


@pytest.mark.parametrize("kind", SMALL)
def test_small_moments_keep_groups_rates_and_schedules(
    tiny_llama: Callable[..., Any], kind: MomentKind
) -> None:
    model = tiny_llama()
    config = AdamWConfig(weight_decay=0.5, state=kind)
    optimizer = build_optimizer(model, config, 1e-2)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0, 0.0]
    twin = tiny_llama()
    twin.load_state_dict(model.state_dict())
    plain = build_optimizer(twin, AdamWConfig(weight_decay=0.5), 1e-2)
    for group in (*optimizer.param_groups, *plain.param_groups):
        group["lr"] = 1e-3
    _step(model, optimizer)
    _step(twin, plain)
    for (name, found), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_parameters_without_a_gradient_are_left_out(tiny_llama: Callable[..., Any]) -> None:
    model = tiny_llama()
    optimizer = build_optimizer(model, AdamWConfig(state=MomentKind.int8), 1e-2)
    optimizer.step()
    assert not optimizer.state
    _step(model, optimizer)
    still = model.model.norm.weight
    before = still.detach().clone()
    for parameter in model.parameters():
        parameter.grad = None if parameter is still else torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(still, before)
    assert optimizer.state[still]["step"] == 1
    assert optimizer.state[model.lm_head.weight]["step"] == 2


def test_a_gradient_that_is_no_number_is_named(tiny_llama: Callable[..., Any]) -> None:
    model = tiny_llama()
    optimizer = build_optimizer(model, AdamWConfig(state=MomentKind.bf16), 1e-2)
    _step(model, optimizer)
    before = copy.deepcopy(model.state_dict())
    model.model.layers[1].mlp.up_proj.weight.grad[0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"of model\.layers\.1\.mlp\.up_proj\.weight: .* not finite"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("saved", "asked"), [("int8", "bf16"), ("bf16", "int8"), ("float32", "int8")])
def test_moments_of_another_kind_are_refused(tiny_llama: Callable[..., Any], saved: str, asked: str) -> None:
    model = tiny_llama()
    before, after = (build_optimizer(model, AdamWConfig(state=MomentKind(k)), 1e-2) for k in (saved, asked))
    _step(model, before)
    with pytest.raises(RequestError, match=f"optimizer.state={asked} has .*set optimizer.state as it was"):
        after.load_state_dict(before.state_dict())


@pytest.mark.parametrize("kind", SMALL)
def test_another_device_is_refused(tiny_llama: Callable[..., Any], kind: MomentKind) -> None:
    config = AdamWConfig(state=kind)
    with pytest.raises(
        RequestError, match=f"optimizer.state={kind} has kernels for whole weights on the CPU"
    ):
        build_optimizer(tiny_llama().to("meta"), config, 1e-2)
    with pytest.raises(RequestError, match=r"set optimizer\.state=float32"):
        check_device(config, DistributedConfig(accelerator=Accelerator.cuda))
    check_device(config, DistributedConfig(accelerator=Accelerator.cpu))
    check_device(AdamWConfig(), DistributedConfig(accelerator=Accelerator.cuda))


def _final_loss(kind: MomentKind, seed: int) -> float:
    """Of the next byte of Python's documentation after four, 200 updates of 57,000 weights."""
    torch.manual_seed(seed)
    ids = torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8).long()
    embedding, hidden, head = nn.Embedding(256, 32), nn.Linear(128, 128), nn.Linear(128, 256)
    model = nn.Sequential(embedding, nn.Flatten(), hidden, nn.ReLU(), head)
    named = [*model.named_parameters()]
    if kind is MomentKind.float32:
        optimizer: Any = torch.optim.AdamW(model.parameters(), 3e-3, (0.9, 0.95), weight_decay=0, fused=True)
    else:
        groups = [{"params": named, "weight_decay": 0.0}]
        optimizer = CompactAdamW(groups, 3e-3, (0.9, 0.95), 1e-8, kind)
    losses = []
    for _ in range(200):
        places = torch.randint(len(ids) - 5, (128, 1)) + torch.arange(5)
        batch = ids[places]
        loss = F.cross_entropy(model(batch[:, :4]), batch[:, 4])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


def test_small_moments_learn_as_well_as_float32() -> None:
    seeds = range(3)
    plain = [_final_loss(MomentKind.float32, seed) for seed in seeds]
    assert max(plain) < 2.6, "it learns: 5.5 at the beginning"
    for kind in SMALL:
        differences = [_final_loss(kind, seed) - plain[seed] for seed in seeds]
        assert abs(sum(differences)) / 3 <= max(plain) - min(plain), (kind, differences, plain)
