"""One decoder block: from full-precision weights to ternary ones that answer alike.

1. One pass of the ternary stream through the block in full precision collects the second moments of
   every linear's int8 input, so the errors of earlier blocks are in them.
2. solve.py chooses codes and scales of each linear.
3. refine.py tunes the block as a whole on the output.
Memory: the block in float32 four times (weights, gradient, Adam's two moments), the moments, and the
streams that the caller holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch.linear import BitLinear, get_lambda, set_lambda
from bitnet_arch.ternary import ternary_codes_and_scales
from wf_ptq.layers import (
    SHARED_INPUTS,
    Int8Input,
    TernaryLinear,
    install,
    latent_weights,
    quantizers,
)
from wf_ptq.options import BlockOptions
from wf_ptq.refine import refine_block, relative_error
from wf_ptq.solve import output_error, solve_linear
from wf_ptq.streams import STREAM_BATCH, BlockRunner


@dataclass(frozen=True)
class BlockReport:
    """Relative squared errors: of each linear's output on its inputs (absmean's and the solved one's)
    and of the stream after the block, before and after refinement."""

    naive: dict[str, float]
    solved: dict[str, float]
    stream_solved: float
    stream: float


def ternarize_block(
    run: BlockRunner,
    block: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    options: BlockOptions,
    seed: int,
) -> BlockReport:
    """Replaces the master weights (and tunes gains and biases) of one block in place.

    Args:
        run: of the model that the block belongs to.
        block: its BitLinears hold full-precision weights in float32.
        inputs: ternary stream before the block [sequences, tokens, hidden], in the dtype to compute in.
        targets: full-precision stream after the block, the same shape and dtype.
        seed: of the refinement's batches.
    Raises:
        ValueError: streams of different shapes, or values that are not finite.
    """
    if inputs.shape != targets.shape:
        raise ValueError(f"streams of shapes {tuple(inputs.shape)} and {tuple(targets.shape)}")
    if not targets.isfinite().all():
        raise ValueError("the full-precision stream is not finite")
    moments = _input_moments(run, block, inputs[: options.num_moment_sequences])
    naive: dict[str, float] = {}
    solved: dict[str, float] = {}
    linears: dict[str, TernaryLinear] = {}
    for name, quantize in quantizers(inputs.dtype).items():
        layer = block.get_submodule(name)
        assert isinstance(layer, BitLinear)
        codes, scales = solve_linear(layer.weight, moments[name], layer.scheme, options.solve)
        latent = latent_weights(layer.weight, codes, scales)
        linears[name] = TernaryLinear(layer, codes, scales, latent, quantize)
        naive[name], solved[name] = _layer_errors(layer, codes, scales, moments[name])
    del moments
    install(block, linears)
    stream_solved = _stream_error(run, block, inputs, targets)
    refine_block(run, block, list(linears.values()), inputs, targets, options.refine, seed)
    stream = _stream_error(run, block, inputs, targets)
    install(block, {name: linear.write_back() for name, linear in linears.items()})
    return BlockReport(naive, solved, stream_solved, stream)


def _layer_errors(layer: BitLinear, codes: Tensor, scales: Tensor, moments: Tensor) -> tuple[float, float]:
    """Relative squared output errors of absmean rounding and of (codes, scales)."""
    weight = layer.weight.detach()
    energy = ((weight @ moments) * weight).sum().clamp(min=torch.finfo(torch.float32).tiny)
    rounded = ternary_codes_and_scales(weight, layer.scheme)
    errors = [output_error(*found, weight, moments).sum() / energy for found in (rounded, (codes, scales))]
    return errors[0].item(), errors[1].item()


@torch.no_grad()
def _stream_error(run: BlockRunner, block: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Mean relative error of the last sequences."""
    rows = slice(-STREAM_BATCH, None)
    return relative_error(run(block, inputs[rows]), targets[rows]).mean().item()


@torch.no_grad()
def _input_moments(run: BlockRunner, block: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Mean of x x^T, float32 [in, in], of each linear's quantized input; the block in full precision."""
    sums: dict[str, Tensor] = {}
    num_tokens = inputs.shape[0] * inputs.shape[1]

    def collect(layer: nn.Module, args: Any, name: str) -> None:
        assert isinstance(layer, BitLinear)
        x = args[0] if layer.sub_norm is None else layer.sub_norm(args[0])
        x = Int8Input.apply(x.reshape(-1, x.shape[-1]), torch.float32)
        total = sums.setdefault(name, x.new_zeros(x.shape[1], x.shape[1]))
        total.addmm_(x.t(), x)

    with _full_precision(block):
        hooks = [
            block.get_submodule(names[0]).register_forward_pre_hook(
                lambda layer, args, name=names[0]: collect(layer, args, name)
            )
            for names in SHARED_INPUTS
        ]
        try:
            run.stream(block, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    return {name: sums[names[0]] / num_tokens for names in SHARED_INPUTS for name in names}


@contextmanager
def _full_precision(block: nn.Module) -> Iterator[None]:
    before = get_lambda(block)
    set_lambda(block, 0.0)
    try:
        yield
    finally:
        set_lambda(block, before)
