"""One forward pass of a Hugging Face causal LM that captures what was asked for.

Logits over a vocabulary of 49152 cost as much as several blocks, so without a wish for them the pass
stops before the vocabulary projection, and objectives compute theirs in chunks. The model is still
called as a whole (with no position kept for the head), because FSDP gathers the weights of the root
module in its forward hook. Everything else is taken by hooks on the modules that produce it.

FSDP gathers a block's weights for the backward pass when a gradient reaches one of the tensors that the
block returned. What is taken inside a block may be all that a loss depends on, so it leaves the block as
a further output, which is taken off again before the next block sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bitnet_arch.families import blocks
from wrinklefree.capture import LAST_HIDDEN_STATE, QKV, Capture, ForwardResult, Shape, View
from wrinklefree.errors import RunError
from wrinklefree.model_checks import ModelFacts
from wrinklefree.predictions import DensePredictions

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def run_forward(model: Any, view: View, capture: Capture = LAST_HIDDEN_STATE) -> ForwardResult:
    """What `capture` asks for, on `input_ids` and `position_ids` ([batch, tokens]).

    Without `visible` no attention mask is passed: the restart of position_ids at 0 tells transformers where a
    packed document begins, and tokens see those before them.

    Raises: ValueError for a layer that is not there, or a head with a bias.
    """
    layers = [block for _, block in blocks(model)]
    if capture.predictions:
        capture |= LAST_HIDDEN_STATE
    hidden: dict[int, Tensor] = {}
    projected: dict[tuple[int, str], Tensor] = {}
    # In this order: hidden states are what is left after the further outputs were taken off.
    with (
        _recording_qkv(layers, capture, projected),
        _recording_hidden_states(model, layers, capture, hidden),
        _detaching(layers if capture.detached_blocks else []),
    ):
        output = model(
            input_ids=view["input_ids"],
            position_ids=view["position_ids"],
            attention_mask=view.get("visible"),
            use_cache=False,
            logits_to_keep=0 if capture.logits else _no_positions(view),
        )
    qkv = {
        number: QKV(*(projected[number, name] for name in _PROJECTIONS))
        for number in capture.qkv.within(len(layers))
    }
    head = head_weight(model)
    return ForwardResult(
        len(layers),
        hidden,
        head,
        qkv,
        output.logits if capture.logits else None,
        DensePredictions(hidden[len(layers)], head) if capture.predictions else None,
    )


def _no_positions(view: View) -> Tensor:
    return torch.empty(0, dtype=torch.long, device=view["input_ids"].device)


@contextmanager
def _recording_hidden_states(
    model: Any, layers: list[Any], capture: Capture, found: dict[int, Tensor]
) -> Iterator[None]:
    with ExitStack() as stack:
        for number in capture.hidden_numbers(len(layers)):

            def keep(module: nn.Module, inputs: Any, output: Any | None = None, number: int = number) -> None:
                value = inputs[0] if output is None else output
                found[number] = getattr(value, "last_hidden_state", value)

            if number == 0:
                handle = layers[0].register_forward_pre_hook(keep)
            else:
                source = model.model if number == len(layers) else layers[number - 1]
                handle = source.register_forward_hook(keep)
            stack.callback(handle.remove)
        yield


@contextmanager
def _detaching(layers: list[Any]) -> Iterator[None]:
    """Cuts the gradient at the input of each of the layers."""

    def cut(module: nn.Module, inputs: Any) -> Any:
        return inputs[0].detach(), *inputs[1:]

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(cut).remove)
        yield


@contextmanager
def _recording_qkv(
    layers: list[Any], capture: Capture, found: dict[tuple[int, str], Tensor]
) -> Iterator[None]:
    with ExitStack() as stack:
        for number in capture.qkv.within(len(layers)):
            taken: dict[str, Tensor] = {}
            for handle in _taking(layers[number].self_attn, taken):
                stack.callback(handle.remove)
            for handle in _handing_out(layers[number], number, taken, found):
                stack.callback(handle.remove)
        yield


def _taking(attention: Any, taken: dict[str, Tensor]) -> list[RemovableHandle]:
    def take(module: nn.Module, inputs: Any, output: Tensor, name: str) -> None:
        taken[name] = output.unflatten(-1, (-1, attention.head_dim))

    def take_fused(module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Queries, keys and values of one linear (Phi-3)."""
        keys = attention.config.num_key_value_heads
        counts = (attention.config.num_attention_heads, keys, keys)
        taken.update(
            zip(_PROJECTIONS, output.unflatten(-1, (-1, attention.head_dim)).split(counts, -2), strict=True)
        )

    if hasattr(attention, "qkv_proj"):
        return [attention.qkv_proj.register_forward_hook(take_fused)]
    return [getattr(attention, name).register_forward_hook(partial(take, name=name)) for name in _PROJECTIONS]


def _handing_out(
    block: nn.Module, number: int, taken: dict[str, Tensor], found: dict[tuple[int, str], Tensor]
) -> list[RemovableHandle]:
    """The first hook of all adds `taken` to the block's output, the last one takes it off again: a
    hook of FSDP between them sees it."""

    def add(module: nn.Module, inputs: Any, output: Any) -> Any:
        return output, taken

    def take_off(module: nn.Module, inputs: Any, output: Any) -> Any:
        output, seen = output
        found.update({(number, name): tensor for name, tensor in seen.items()})
        return output

    return [block.register_forward_hook(add, prepend=True), block.register_forward_hook(take_off)]


def recompute_activations(model: Any) -> None:
    """In the backward pass, instead of keeping them: less memory, a third more time."""
    # transformers 5.2x calls it activation_checkpointing and warns of the old name, the only one before.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def shape_of(model: Any) -> Shape:
    """Raises: RunError for a model that no pass can be made of (a head with a bias)."""
    try:
        vocab_size, hidden_size = head_weight(model).shape
    except ValueError as error:
        raise RunError(f"{model.config.name_or_path or type(model).__name__}: {error}") from error
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = (head_dim * config.num_attention_heads, head_dim * config.num_key_value_heads)
    return Shape(len(list(blocks(model))), hidden_size, vocab_size, *sizes)


def head_weight(model: Any) -> Tensor:
    """The head's weight. Raises ValueError for a head with a bias, which the loss would ignore."""
    head: nn.Linear = model.get_output_embeddings()
    if head.bias is not None:
        raise ValueError("the vocabulary projection has a bias; the chunked loss knows none")
    return head.weight


def facts_of(model: Any) -> ModelFacts:
    """What model_checks.py asks of a loaded model."""
    return ModelFacts(model.config.model_type, getattr(model.config, "max_position_embeddings", None))
