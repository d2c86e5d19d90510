"""A quantized linear with a low-rank correction: y = BitLinear(x) + lambda U V^T x.

x is the input of the product, after SubLN and not rounded (Scetbon and Hensman 2024, LRC, arXiv 2412.07902);
lambda is the layer's share of quantization, so at 0 it is the full-precision layer. U is [out, rank], V
[in, rank]. A new correction is zero in both factors, which gives none of them a gradient: wf_ptq.low_rank
fills them in closed form, and gradients go on from there.

At 16 bits a number a layer has 16 rank (in + out) / (in out) bits per weight more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet_arch.families import block_linears, blocks
from bitnet_arch.linear import BitLinear
from wf_formats.schemes import LOW_RANK_FACTORS

FACTORS = LOW_RANK_FACTORS
"""Parameters of a corrected layer."""
BITS = 16
"""Of a number of U and V, as figures count it: float32 is stored, half of it would do."""


class BitLinearLRC(BitLinear):
    """A BitLinear and its correction.

    Attributes:
        lrc_u: U, [out, rank].
        lrc_v: V, [in, rank].
    """

    lrc_u: nn.Parameter
    lrc_v: nn.Parameter

    @classmethod
    def around(cls, layer: BitLinear, rank: int) -> BitLinearLRC:
        """The layer, sharing its parameters, with a correction of zeros.

        Raises:
            ValueError: no matrix of the layer's shape has that rank.
        """
        check_rank(rank, layer.out_features, layer.in_features)
        corrected = cls.from_linear(layer, layer.quantizer, layer.sub_norm)
        corrected.activation, corrected.lambda_ = layer.activation, layer.lambda_
        corrected.gradients = layer.gradients
        for name, size in zip(FACTORS, (layer.out_features, layer.in_features), strict=True):
            zeros = torch.zeros(size, rank, device=layer.weight.device, dtype=layer.weight.dtype)
            corrected.register_parameter(name, nn.Parameter(zeros))
        return corrected.train(layer.training)

    @property
    def rank(self) -> int:
        return self.lrc_u.shape[1]

    def of_normed(self, x: Tensor) -> Tensor:
        y = super().of_normed(x)
        if self.lambda_ == 0.0:
            return y
        correction = F.linear(F.linear(x, self.lrc_v.t()), self.lrc_u)
        return y + (self.lambda_ * correction).to(y.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


def check_rank(rank: int, out_features: int, in_features: int) -> None:
    """Raises ValueError for a rank that no correction of the matrix [out, in] has."""
    most = min(out_features, in_features)
    if not 1 <= rank <= most:
        raise ValueError(
            f"rank {rank} is not possible for a matrix of {out_features} x {in_features}: give 1 to {most}"
        )


def check_model_rank(model: nn.Module, rank: int) -> None:
    """Raises ValueError naming a linear that has a correction already, or that the rank does not fit."""
    for name in _block_linear_names(model):
        layer: Any = model.get_submodule(name)
        if isinstance(layer, BitLinearLRC):
            raise ValueError(f"{name} has a low-rank correction already, of rank {layer.rank}")
        try:
            check_rank(rank, layer.out_features, layer.in_features)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def install_low_rank(model: nn.Module, rank: int) -> None:
    """Gives every BitLinear of a converted model a correction of zeros.

    Raises:
        ValueError: as `check_model_rank`; nothing was changed.
    """
    check_model_rank(model, rank)
    for name in _block_linear_names(model):
        layer: Any = model.get_submodule(name)
        model.set_submodule(name, BitLinearLRC.around(layer, rank))
    model.config.quantization_config.low_rank = rank  # type: ignore[union-attr]


def _block_linear_names(model: nn.Module) -> list[str]:
    return [f"{block}.{name}" for block, _ in blocks(model) for name in block_linears(model)]


def corrected_linears(model: nn.Module) -> Iterator[tuple[str, BitLinearLRC]]:
    """Qualified names and modules of the layers that have a correction, in model order."""
    for name, module in model.named_modules():
        if isinstance(module, BitLinearLRC):
            yield name, module


def train_corrections_alone(model: nn.Module) -> None:
    """Freezes every parameter but the factors of the corrections.

    Raises:
        ValueError: the model has none.
    """
    layers = [layer for _, layer in corrected_linears(model)]
    if not layers:
        raise ValueError("the model has no low-rank correction")
    model.requires_grad_(False)
    for layer in layers:
        layer.lrc_u.requires_grad_(True)
        layer.lrc_v.requires_grad_(True)


def correction_bits_per_weight(model: nn.Module) -> float:
    """What the corrections add to the bits of a quantized weight, at BITS a number; 0 without any."""
    layers = [layer for _, layer in corrected_linears(model)]
    added = sum(layer.lrc_u.numel() + layer.lrc_v.numel() for layer in layers)
    return BITS * added / max(1, sum(layer.weight.numel() for layer in layers))
