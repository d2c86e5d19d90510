"""Mistral: the Llama block without biases; every layer attends within sliding_window where it is set.

Heads may be narrower or wider than hidden size / heads (Nemo: 32 x 128 with 5120). Version 0.1 has a window
of 4096 in a context of 32768, later ones have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wf_formats.families.base import SLIDING, Family
from wf_formats.families.llama import LAYERED_ARCH, LLAMA_ARCH


def all_slide(config: Mapping[str, Any], num_layers: int) -> list[str]:
    """Every layer has the window, where the config names one."""
    return [SLIDING] * num_layers


MISTRAL = Family(
    model_type="mistral",
    names="Mistral 7B, Nemo, Small",
    archs=(LLAMA_ARCH, LAYERED_ARCH),
    optional=(),
    becomes_bitnet=True,
    layer_types=all_slide,
)
