"""Which models can be converted, and their decoder blocks; the families are in wf_formats.families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from wf_formats.errors import UserError
from wf_formats.families import FAMILIES, family_of
from wf_formats.families.block import BLOCK_LINEARS, SUB_NORM_SITES, SubNormSite
from wf_formats.families.support import why_no_sub_norm

__all__ = [
    "BLOCK_LINEARS",
    "SUB_NORM_SITES",
    "SubNormSite",
    "UnsupportedModelError",
    "block_linears",
    "blocks",
    "check_sub_norm",
    "check_supported",
    "supported_families",
]


CONVERTIBLE_ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
"""transformers' names of what the runtimes compute in a dense model's block."""


class UnsupportedModelError(UserError, ValueError):
    """The model cannot be converted; the message lists what can."""


def supported_families() -> list[str]:
    """The `model_type` values that can be converted."""
    return [family.model_type for family in FAMILIES.values() if family.can_be_converted]


def check_supported(config: Any) -> None:
    """Raises UnsupportedModelError for a config whose model cannot be converted."""
    if config.model_type not in supported_families():
        known = "; ".join(f"{name} ({FAMILIES[name].names})" for name in supported_families())
        raise UnsupportedModelError(f"model type {config.model_type!r} cannot be converted; known: {known}")
    family = family_of(config.model_type)
    activation = getattr(config, family.activation_key)
    if activation not in CONVERTIBLE_ACTIVATIONS:
        known = ", ".join(CONVERTIBLE_ACTIVATIONS)
        raise UnsupportedModelError(f"activation {activation!r} cannot be converted; known: {known}")


def block_linears(model: nn.Module) -> tuple[str, ...]:
    """Names of the linears of a decoder block, inside the block."""
    return family_of(model.config.model_type).linears  # type: ignore[union-attr]


def check_sub_norm(config: Any) -> None:
    """Raises UnsupportedModelError for a config whose model has no place for SubLN."""
    if (reason := why_no_sub_norm(family_of(config.model_type))) is not None:
        raise UnsupportedModelError(reason)


def blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Qualified names (`model.layers.N`) and modules of the decoder blocks."""
    for index, block in enumerate(model.model.layers):  # type: ignore[union-attr, arg-type]
        yield f"model.layers.{index}", block
