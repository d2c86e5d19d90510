"""What the search goes by: the inputs of a block's linears, summed up or as calls that can be made again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wf_ptq.moments import add_products, mirrored, show_inputs
from wf_ptq.streams import BlockRunner


@dataclass(frozen=True)
class InputStatistics:
    """Of one input: mean |x| [in] and mean x x^T [in, in] over the calibration tokens, float32."""

    magnitude: Tensor
    moment: Tensor

    def divided(self, scales: Tensor) -> InputStatistics:
        """Of the input divided by scales [in]."""
        return InputStatistics(self.magnitude / scales, self.moment / torch.outer(scales, scales))


@torch.no_grad()
def input_statistics(run: BlockRunner, block: nn.Module, inputs: Tensor) -> dict[str, InputStatistics]:
    """Of the input of each linear of the block, by its name; the block in full precision.

    Args:
        inputs: stream before the block [sequences, tokens, hidden], of the model as quantized so far.
    """
    magnitudes: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    num_tokens = inputs.shape[0] * inputs.shape[1]

    def add(name: str, x: Tensor) -> None:
        magnitudes.setdefault(name, x.new_zeros(x.shape[1])).add_(x.abs().sum(0))
        add_products(moments.setdefault(name, x.new_zeros(x.shape[1], x.shape[1])), x)

    groups = show_inputs(run, block, inputs, add)
    found = {
        name: InputStatistics(magnitudes[name] / num_tokens, mirrored(moments[name]) / num_tokens)
        for name in moments
    }
    return {name: found[group[0]] for group in groups for name in group}


@dataclass(frozen=True)
class Calls:
    """Calls of a module, each with its output, to be made again with other weights."""

    module: nn.Module
    made: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]

    @torch.no_grad()
    def error(self) -> float:
        """|output - the first one|^2 over |the first one|^2."""
        lost = kept = 0.0
        for args, kwargs, expected in self.made:
            lost += (_output(self.module(*args, **kwargs)) - expected).square().sum().item()
            kept += expected.square().sum().item()
        return lost / max(kept, torch.finfo(torch.float32).tiny)


def recorded_calls(
    run: BlockRunner, block: nn.Module, names: Iterable[str], inputs: Tensor
) -> dict[str, Calls]:
    """The calls of some modules of the block while the stream [sequences, tokens, hidden] passes."""
    found = {name: Calls(block.get_submodule(name), []) for name in names}
    hooks = [
        calls.module.register_forward_hook(
            lambda module, args, kwargs, output, calls=calls: calls.made.append(
                (args, kwargs, _output(output))
            ),
            with_kwargs=True,
        )
        for calls in found.values()
    ]
    try:
        run.stream(block, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _output(output: Any) -> Tensor:
    """Attention returns its weights besides."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first
