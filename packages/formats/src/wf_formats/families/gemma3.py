"""Gemma 3, text only (1B, 270M and the text part of the others as `gemma3_text`).

Differences to Llama: gains are stored less 1, four norms a block (those of what attention and feed-forward
part add too), norms on the heads of q and k, GELU, embeddings times sqrt(hidden size), queries times keys
over sqrt(query_pre_attn_scalar), five layers with a window and a rotary base of their own to each that sees
everything. The two caps on logits are Gemma 2's and must be absent.

llama.cpp's `gemma3` has scale and rotation by rules: the scale is that of a head, except in 27B (62 layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wf_formats.families.base import FULL, SLIDING, Family, GgufArch, Shape
from wf_formats.families.block import ATTENTION_BIASES, OUTPUT_NORMS, QK_NORMS

_PERIOD = 6
_LAYERS_OF_27B = 62
_PARTS = (*QK_NORMS, *OUTPUT_NORMS)


def _layer_types(config: Mapping[str, Any], num_layers: int) -> list[str]:
    if types := config.get("layer_types"):
        return list(types)
    period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or _PERIOD
    return [SLIDING if (index + 1) % period else FULL for index in range(num_layers)]


def _attention_scale(shape: Shape) -> float:
    if shape.num_layers == _LAYERS_OF_27B:
        return (shape.hidden_size // shape.num_heads) ** -0.5
    return shape.head_dim**-0.5


GEMMA3 = Family(
    model_type="gemma3_text",
    names="Gemma 3 (text)",
    archs=(
        GgufArch(
            "gemma3",
            activation="gelu_tanh",
            extras=_PARTS,
            rope_kinds=("default", "dynamic", "linear"),
            windows="period",
            window_period=_PERIOD,
            has_local_rope=True,
            scales_embedding=True,
            attention_scale=_attention_scale,
        ),
    ),
    extras=_PARTS,
    optional=(ATTENTION_BIASES,),
    renamed={
        "post_attention_norm": "pre_feedforward_layernorm",
        "attn_output_norm": "post_attention_layernorm",
        "ffn_output_norm": "post_feedforward_layernorm",
    },
    activation_key="hidden_activation",
    norm_offset=1.0,
    scales_embedding=True,
    attention_scale_key="query_pre_attn_scalar",
    layer_types=_layer_types,
)
