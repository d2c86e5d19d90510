"""What a config.json says of each layer's attention: its window and its rotary parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wf_formats.errors import LoadError
from wf_formats.families.base import FULL, SLIDING, Family

MAX_LAYERS = 1 << 12
"""Far beyond any model; bounds what a damaged file can make us allocate."""
LOCAL_BASE = "rope_local_base_freq"
"""Older spelling of the rotary base of layers with a window (Gemma 3)."""


@dataclass(frozen=True)
class LayerKind:
    """Attention of one layer as the model's settings have it."""

    type: str
    """FULL or SLIDING."""
    window: int | None
    """Tokens that a token sees, itself included; None: all of the context."""
    rope: Mapping[str, Any] | None
    """rope_parameters; None: the layer has no rotary positions."""


def read_layers(config: Mapping[str, Any], family: Family) -> list[LayerKind]:
    """The kinds of all layers.

    Raises:
        LoadError: a setting is missing, of a wrong kind or not one of the family's.
    """
    num_layers = config.get("num_hidden_layers")
    if type(num_layers) is not int or not 0 < num_layers <= MAX_LAYERS:
        raise LoadError(f"{num_layers!r:.60} layers; 1 to {MAX_LAYERS} are supported")
    _check_settings(config, family)
    types = _types(config, family, num_layers)
    ropes = {kind: rope_parameters(config, kind) for kind in set(types)}
    windows = {kind: _window(config, kind) for kind in set(types)}
    return [
        LayerKind(kind, windows[kind], ropes[kind] if family.is_rotated(config, index) else None)
        for index, kind in enumerate(types)
    ]


def rope_parameters(config: Mapping[str, Any], layer_type: str = FULL) -> dict[str, Any]:
    """Rotary parameters of a type of layers, in whichever of transformers' spellings the file has them.

    Raises:
        LoadError: they are no object, or there is no base.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise LoadError(f"rope_parameters is {given!r:.60}, not an object")
    base_key = "rope_theta"
    if FULL in given or SLIDING in given:
        given = given.get(layer_type) or {}
        if not isinstance(given, Mapping):
            raise LoadError(f"rope_parameters of {layer_type} is {given!r:.60}, not an object")
    elif layer_type == SLIDING and config.get(LOCAL_BASE) is not None:
        given, base_key = {}, LOCAL_BASE
    rope = dict(given)
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = config.get(base_key)
    if rope["rope_theta"] is None:
        raise LoadError(f"config.json: {base_key} is None, not a positive number")
    if rope.get("partial_rotary_factor") is None and config.get("partial_rotary_factor") is not None:
        rope["partial_rotary_factor"] = config["partial_rotary_factor"]
    if rope.get("rope_type", rope.get("type")) in ("llama3", "yarn", "longrope"):
        original = config.get("original_max_position_embeddings") or config.get("max_position_embeddings")
        rope.setdefault("original_max_position_embeddings", original)
    if rope.get("rope_type", rope.get("type")) == "longrope" and rope.get("factor") is None:
        longest, original = config.get("max_position_embeddings"), rope["original_max_position_embeddings"]
        rope["factor"] = longest / original if isinstance(longest, int) and original else None
    return rope


def context_tokens(config: Mapping[str, Any]) -> int:
    """Positions for which one table of rotary frequencies holds: longrope has another one beyond the context
    that the model was first trained with.

    Raises:
        LoadError: a setting is no positive whole number.
    """
    context = config.get("max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if isinstance(rope, Mapping) and rope.get("rope_type", rope.get("type")) == "longrope":
        original = rope.get("original_max_position_embeddings")
        original = original or config.get("original_max_position_embeddings") or context
        if isinstance(context, int) and isinstance(original, int):
            context = min(context, original)
    if type(context) is not int or not 0 < context < 1 << 31:
        raise LoadError(f"config.json: max_position_embeddings is {context!r:.60}, not a positive number")
    return context


def _check_settings(config: Mapping[str, Any], family: Family) -> None:
    if family.layer_types is None and (config.get("use_sliding_window") or _names(config, SLIDING)):
        raise LoadError(
            f"sliding windows (of {config.get('sliding_window')!r} tokens) are no part of "
            f"{family.model_type!r}; set use_sliding_window to false if the model has none"
        )
    rotation = config.get("partial_rotary_factor")
    if rotation not in (None, 1, 1.0) and not family.rotates_part:
        raise LoadError(f"partial_rotary_factor is {rotation!r:.60}; {family.model_type!r} turns whole heads")
    if config.get("use_bidirectional_attention"):
        raise LoadError("bidirectional attention is not supported")
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(cap) is not None:
            raise LoadError(f"{cap} is {config[cap]!r:.60}; caps on logits are not supported")


def _names(config: Mapping[str, Any], layer_type: str) -> bool:
    return layer_type in (config.get("layer_types") or [])


def _types(config: Mapping[str, Any], family: Family, num_layers: int) -> list[str]:
    listed = config.get("layer_types") or []
    if not isinstance(listed, list):
        raise LoadError(f"layer_types is {listed!r:.60}, not a list")
    if unknown := set(map(str, listed)) - {FULL, SLIDING}:
        raise LoadError(f"layer type {min(unknown)!r} is not supported")
    if family.layer_types is None:
        return [FULL] * num_layers
    types = family.layer_types(config, num_layers)
    if len(types) < num_layers:
        raise LoadError(f"layer_types names {len(types)} of {num_layers} layers")
    return types[:num_layers]


def _window(config: Mapping[str, Any], layer_type: str) -> int | None:
    """None too where the window is as long as the context."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if layer_type == FULL or window is None:
        return None
    if type(window) is not int or window < 1:
        raise LoadError(f"config.json: sliding_window is {window!r:.60}, not a positive whole number")
    return None if type(context) is int and window >= context else window
