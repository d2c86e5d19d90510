"""Qwen 2 and 2.5: biases on q, k, v; use_sliding_window gives layers from max_window_layers on a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wf_formats.families.base import FULL, SLIDING, Family, GgufArch
from wf_formats.families.block import QKV_BIASES
from wf_formats.families.llama import LAYERED_ARCH


def qwen_layer_types(config: Mapping[str, Any], num_layers: int) -> list[str]:
    """As transformers makes them of max_window_layers where layer_types is not there."""
    if config.get("use_sliding_window") is False:
        return [FULL] * num_layers
    if types := config.get("layer_types"):
        return list(types)
    first = config.get("max_window_layers") or 0
    slides = config.get("use_sliding_window")
    return [SLIDING if slides and index >= first else FULL for index in range(num_layers)]


QWEN2 = Family(
    model_type="qwen2",
    names="Qwen 2, 2.5",
    archs=(GgufArch("qwen2", extras=QKV_BIASES), LAYERED_ARCH),
    extras=QKV_BIASES,
    optional=(),
    layer_types=qwen_layer_types,
)
