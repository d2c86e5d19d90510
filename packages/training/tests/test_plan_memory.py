"""Predicted bytes beside those of a real step of a tiny model, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import bitnet_arch
from bitnet_arch import ConversionConfig, convert, quantizer
from wrinklefree.config.distributed import DistributedKind
from wrinklefree.config.optimizer import (
    AdamW8bitConfig,
    AdamWConfig,
    MomentKind,
    MuonConfig,
    OptimizerConfig,
)
from wrinklefree.config.training import Precision
from wrinklefree.cross_entropy import chunked_cross_entropy
from wrinklefree.forward import recompute_activations, run_forward
from wrinklefree.optimizers import build_optimizer
from wrinklefree.planning.memory import (
    Sharding,
    Step,
    activations,
    kept_by_loss,
    memory,
    rounded_weights,
)
from wrinklefree.planning.shapes import ModelShape, shape_of

TOLERANCE = 0.001
"""Of what a forward pass keeps; docs/planning.md names it."""


@dataclass
class Kept:
    """Bytes of the distinct storages that autograd keeps from the forward pass, but parameters."""

    num_bytes: int = 0


@contextmanager
def keeping(model: torch.nn.Module) -> Iterator[Kept]:
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, Tensor] = {}  # held, so that no address is given twice
    kept = Kept()

    def note(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameters and address not in storages:
            storages[address] = tensor
            kept.num_bytes += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


UNQUANTIZED = {"quantization_config": None}


def shape(model: Any, scheme: str) -> ModelShape:
    return shape_of("", model.config.to_dict() | UNQUANTIZED, scheme, sub_norm=scheme == "tensor")


def converted(model: Any, scheme: str, precision: Precision) -> Any:
    if scheme != "none":
        model = convert(model, ConversionConfig(quantizer(scheme)), torch.randint(0, 250, (8, 64)))
        bitnet_arch.set_precision(model, precision.value)
    bitnet_arch.use_kernels(model)
    return model.train()


def loss_of(model: Any, batch: int, tokens: int, precision: Precision) -> Tensor:
    """Two documents a sequence, as packed text has them."""
    ids = torch.randint(0, model.config.vocab_size, (batch, tokens))
    positions = torch.cat([torch.arange(tokens // 2), torch.arange(tokens - tokens // 2)]).expand(batch, -1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is not Precision.float32):
        found = run_forward(model, {"input_ids": ids, "position_ids": positions})
        assert found.head_weight is not None
        return chunked_cross_entropy(found.last_hidden_state, found.head_weight, ids, 512)


SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 512}
WIDE = {"num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 2048}
CASES = [
    ("tiny_llama", "group64", Precision.float32, 4, 128),
    ("tiny_llama", "tensor", Precision.float32, 2, 64),
    ("tiny_llama", "none", Precision.float32, 4, 128),
    ("tiny_llama", "none", Precision.bf16, 2, 128),
    ("tiny_llama", "group64", Precision.bf16, 4, 192),
    ("tiny_llama", "group64", Precision.int8, 1, 1100),
    ("tiny_qwen3", "group64", Precision.bf16, 2, 128),
    ("tiny_qwen2", "group64", Precision.float32, 2, 128),
]


@pytest.mark.parametrize(("family", "scheme", "precision", "batch", "tokens"), CASES)
def test_what_a_forward_pass_keeps(
    request: pytest.FixtureRequest, family: str, scheme: str, precision: Precision, batch: int, tokens: int
) -> None:
    make: Callable[..., Any] = request.getfixturevalue(family)
    model = converted(make(**SIZES, **WIDE), scheme, precision)
    with keeping(model) as kept:
        loss_of(model, batch, tokens, precision)
    planned, step = shape(model, scheme), Step(batch, tokens, precision, on_cpu=True)
    predicted = activations(planned, step) + rounded_weights(planned, step) + kept_by_loss(planned, step)
    assert predicted == pytest.approx(kept.num_bytes, rel=TOLERANCE)


def test_checkpointing_keeps_the_inputs_of_blocks(tiny_llama: Callable[..., Any]) -> None:
    """The block that is made again is beside them only in the backward pass."""
    model = converted(tiny_llama(**SIZES, **WIDE), "group64", Precision.float32)
    recompute_activations(model)
    with keeping(model) as kept:
        loss_of(model, 2, 128, Precision.float32)
    planned = shape(model, "group64")
    plain, again = (Step(2, 128, Precision.float32, on_cpu=True, recomputes=it) for it in (False, True))
    deeper = shape_of("", model.config.to_dict() | {"num_hidden_layers": 3, **UNQUANTIZED}, "group64")
    block = activations(deeper, plain) - activations(planned, plain)
    angles = 2 * 4 * 2 * 128 * model.config.head_dim  # held by arguments of the blocks, not by autograd
    inputs = activations(planned, again) - block - angles
    assert inputs + kept_by_loss(planned, again) == pytest.approx(kept.num_bytes, rel=TOLERANCE)
    assert rounded_weights(planned, again) * 2 == rounded_weights(planned, plain)


@pytest.mark.parametrize(
    "options",
    [
        AdamWConfig(),
        AdamWConfig(fused=True),
        AdamWConfig(state=MomentKind.bf16),
        AdamWConfig(state=MomentKind.int8),
        AdamW8bitConfig(),
        MuonConfig(newton_schulz_steps=1),
    ],
    ids=lambda options: f"{type(options).__name__}-{getattr(options, 'state', '')}",
)
def test_weights_gradients_and_moments_to_the_byte(
    tiny_llama: Callable[..., Any], options: OptimizerConfig
) -> None:
    """With a head of its own, which bitsandbytes keeps in 8 bits and the embedding not."""
    sizes = {**SIZES, **WIDE, "num_hidden_layers": 1, "tie_word_embeddings": False}
    model = converted(tiny_llama(**sizes), "group64", Precision.float32)
    optimizer = build_optimizer(model, options, 1e-3)
    loss_of(model, 1, 16, Precision.float32).backward()
    optimizer.step()
    planned = shape(model, "group64")
    step = Step(1, 16, Precision.float32, on_cpu=True)
    found = memory(planned, step, Sharding(DistributedKind.single), options)
    parameters = list(model.parameters())
    assert found.weights == bytes_of(parameters)
    assert found.gradients == bytes_of([p.grad for p in parameters])
    assert found.moments == bytes_of(
        [value for state in optimizer.state.values() for value in state.values()]
    )


def bytes_of(values: list[Any]) -> int:
    """Of the distinct tensors among them."""
    tensors = {value.untyped_storage().data_ptr(): value for value in values if isinstance(value, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
