"""Architectures that can be converted, and the anatomy of their blocks.

All known families share the Llama block: seven linears, attention output fed by `v_proj` and
`down_proj` fed by `up_proj`, both linear in their producer. A new family of that anatomy is one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn


class UnsupportedModelError(ValueError):
    """The model cannot be converted; the message lists what can."""


@dataclass(frozen=True)
class SubNormSite:
    """A linear with SubLN before it, and the linear whose output scale carries over to its input."""

    consumer: str
    producer: str


FAMILIES = {
    "llama": "Llama 2/3, SmolLM, SmolLM2",
    "qwen2": "Qwen 2, 2.5",
    "qwen3": "Qwen 3",
}
BLOCK_LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
SUB_NORM_SITES = (
    SubNormSite("self_attn.o_proj", "self_attn.v_proj"),
    SubNormSite("mlp.down_proj", "mlp.up_proj"),
)


def supported_families() -> list[str]:
    """The `model_type` values that can be converted."""
    return list(FAMILIES)


def check_supported(config: Any) -> None:
    """Raises UnsupportedModelError for a config whose model cannot be converted."""
    if config.model_type not in FAMILIES:
        known = "; ".join(f"{key} ({names})" for key, names in FAMILIES.items())
        raise UnsupportedModelError(f"model type {config.model_type!r} cannot be converted; known: {known}")
    if config.hidden_act != "silu":
        raise UnsupportedModelError(
            f"activation {config.hidden_act!r} cannot be converted; only 'silu' is known"
        )


def blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Qualified names (`model.layers.N`) and modules of the decoder blocks."""
    for index, block in enumerate(model.model.layers):  # type: ignore[union-attr, arg-type]
        yield f"model.layers.{index}", block
