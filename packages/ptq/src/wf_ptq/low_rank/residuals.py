"""What the quantized linears of a block lack, as second moments over calibration text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet_arch import BitLinear
from wf_ptq.moments import add_products, mirrored
from wf_ptq.streams import BlockRunner


@dataclass(frozen=True)
class Residuals:
    """Sums over the tokens of a linear's input x, of what its output should be, z, and lacks, r = z - y.

    inputs: x x^T, float32 [in, in]; cross: r x^T, float32 [out, in]; residual: |r|^2; target: |z|^2.
    """

    inputs: Tensor
    cross: Tensor
    residual: float
    target: float


class _Sums:
    """Of one linear; `inputs` is None where another linear of the same input has them."""

    def __init__(self, layer: BitLinear, original: Any, has_inputs: bool) -> None:
        size = layer.in_features
        self._original = original
        self.inputs = layer.weight.new_zeros(size, size, dtype=torch.float32) if has_inputs else None
        self.cross = layer.weight.new_zeros(layer.out_features, size, dtype=torch.float32)
        self.residual = self.target = 0.0

    def add(self, layer: BitLinear, args: tuple[Tensor, ...], output: Tensor) -> None:
        """A forward hook of the layer."""
        raw = args[0]
        x = (raw if layer.sub_norm is None else layer.sub_norm(raw)).float().flatten(0, -2)
        with torch.autocast(raw.device.type, enabled=False):
            target = _product(self._original, raw.float().flatten(0, -2))
            residual = target - output.float().flatten(0, -2)
            self.cross.addmm_(residual.t(), x)
            if self.inputs is not None:
                add_products(self.inputs, x)
        self.residual += residual.square().sum(dtype=torch.float64).item()
        self.target += target.square().sum(dtype=torch.float64).item()


def _product(original: Any, x: Tensor) -> Tensor:
    bias = None if original.bias is None else original.bias.float()
    return F.linear(x, original.weight.float(), bias)


@torch.no_grad()
def linear_residuals(
    run: BlockRunner, block: nn.Module, original: nn.Module, layers: Mapping[str, BitLinear], inputs: Tensor
) -> dict[str, Residuals]:
    """Residuals of linears of a block that get the same input, against those of the original block.

    What comes into a linear is the quantized model's; the original linear gets it as it is before SubLN, so
    the residual has in it what the rounding of weights and of activations, SubLN and biases do.

    Args:
        original: the block of the full-precision model.
        layers: by name in the block (`input_groups`).
        inputs: quantized stream before the block [sequences, tokens, hidden].
    """
    sums = {
        name: _Sums(layer, original.get_submodule(name), has_inputs=number == 0)
        for number, (name, layer) in enumerate(layers.items())
    }
    hooks = [layer.register_forward_hook(sums[name].add) for name, layer in layers.items()]
    try:
        run.stream(block, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    shared = next(mirrored(each.inputs) for each in sums.values() if each.inputs is not None)
    return {name: Residuals(shared, each.cross, each.residual, each.target) for name, each in sums.items()}
