"""Which models can be converted, and their decoder blocks; the families are in wf_formats.families."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from bitnet_arch.errors import UnsupportedModelError
from bitnet_arch.source_settings import check_convertible
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


def supported_families() -> list[str]:
    """The `model_type` values that can be converted."""
    return [family.model_type for family in FAMILIES.values() if family.can_be_converted]


def check_supported(config: Any) -> None:
    """Raises UnsupportedModelError for a config (of transformers) whose model cannot be converted."""
    check_settings(config.to_dict())


def check_settings(settings: Mapping[str, Any]) -> None:
    """The same for the contents of a config.json."""
    check_convertible(settings)
    model_type = settings.get("model_type")
    if model_type not in supported_families():
        known = "; ".join(f"{name} ({FAMILIES[name].names})" for name in supported_families())
        raise UnsupportedModelError(f"model type {model_type!r} cannot be converted; known: {known}")
    activation = settings.get(family_of(model_type).activation_key) or CONVERTIBLE_ACTIVATIONS[0]
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
