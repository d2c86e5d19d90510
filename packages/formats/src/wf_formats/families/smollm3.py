"""SmolLM3: the Llama block; every fourth layer has no rotary positions (no_rope_layers: 0; 1 has them).

llama.cpp's `smollm3` has that step of four built in; other patterns are written for `granite_swa`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wf_formats.families.base import Family, GgufArch, named_layer_types
from wf_formats.families.llama import LAYERED_ARCH

_STEP = 4


def _is_rotated(config: Mapping[str, Any], layer: int) -> bool:
    flags = config.get("no_rope_layers")
    if flags:
        return layer >= len(flags) or bool(flags[layer])
    return (layer + 1) % (config.get("no_rope_layer_interval") or _STEP) != 0


SMOLLM3 = Family(
    model_type="smollm3",
    names="SmolLM3",
    archs=(GgufArch("smollm3", rotates_pairs=True, nope_step=_STEP), LAYERED_ARCH),
    layer_types=named_layer_types,
    is_rotated=_is_rotated,
)
