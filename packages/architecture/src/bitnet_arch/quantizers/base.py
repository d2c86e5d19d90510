"""What a weight quantizer is; `BitLinear`, conversion and checkpoints know no more of it.

A quantizer is a file that implements `Quantizer`, and one line that registers it under its name (see
this package's `__init__`). It says what a float master weight becomes; the layer does the rest:
straight-through gradients, blending with full precision, SubLN, the product.

What it makes of a weight is any dataclass with `values()`. `wf_formats.matrix.QuantizedMatrix` (integer
codes times scales) gets exact integer products for nothing. Others, as codes with zero points or the
complex codes and residual sums of a widely linear transform, bring a dataclass of their own and, where
there is something faster than the product of the values, override `product`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from bitnet_arch.activations import ActivationQuantizer, Int8PerToken
from bitnet_arch.products import quantized_linear
from bitnet_arch.rounding import Quantized


def refuse_rows(in_features: int, group_size: int, sizes: Mapping[str, int | None]) -> NoReturn:
    """Raises ValueError for rows that do not divide into groups.

    Args:
        sizes: scheme -> group size of those that are named where they fit; None fits any row.
    """
    fitting = [name for name, size in sizes.items() if in_features % (size or 1) == 0]
    raise ValueError(
        f"rows of {in_features} inputs do not divide into groups of {group_size}; "
        f"schemes that fit: {', '.join(fitting) or 'none'}"
    )


class Quantizer(ABC):
    """Rounds weights [out, in]. Instances are immutable: layers of a model share one."""

    activation: ClassVar[ActivationQuantizer] = Int8PerToken()
    """What it rounds the inputs of a layer to, where the layer is not told otherwise."""

    has_integer_products: ClassVar[bool] = True
    """Whether it makes `QuantizedMatrix`es and rounds inputs to int8, as backward products in int8 need."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Under which configurations and wrinklefree.json know it."""

    @property
    def needs_sub_norm(self) -> bool:
        """Whether conversion inserts SubLN where it is not told."""
        return False

    @abstractmethod
    def check(self, in_features: int) -> None:
        """Raises ValueError for rows that cannot be quantized; the message names what fits."""

    def check_shape(self, out_features: int, in_features: int) -> None:
        """Raises ValueError for a matrix that cannot be quantized; by default its rows alone count."""
        self.check(in_features)

    @abstractmethod
    def quantize(self, weight: Tensor) -> Any:
        """[out, in], any float dtype, without gradient -> a `Quantized` (its values float32 [out, in]).

        Raises:
            ValueError: as `check_shape`.
        """

    def product(self, x: Quantized, weight: Any, dtype: torch.dtype) -> Tensor:
        """x W^T [tokens, out] in `dtype`, x and weight as quantized."""
        return quantized_linear(x, weight, dtype)

    def master_weights(self, chosen: Any, latent: Tensor) -> Tensor:
        """The inverse: float32 weights near `latent` [out, in] that quantize to `chosen`.

        Checkpoints hold master weights alone, so methods that choose codes and scales by other means
        than rounding (wf_ptq) need it.

        Raises:
            ValueError: no weights quantize to that.
            NotImplementedError: the quantizer has no inverse.
        """
        raise NotImplementedError(f"quantizer {self.name!r} has no inverse: train it, or let it round")

    def storable(self, scales: Tensor) -> Tensor:
        """The nearest scales that `master_weights` can carry."""
        return scales

    def __str__(self) -> str:
        return self.name
