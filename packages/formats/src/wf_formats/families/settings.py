"""What the values of a config.json may be, whichever model they belong to: the one check of them.

A value outside its range (no heads, a context of 10^18 tokens, a rotary factor of 0 or of 1e300, which no
float32 holds) is a damaged or hostile file. Unchecked it ends in a traceback of whichever library meets it
first, or in losses that are no numbers. Ranges are far wider than models are; what a family or a runtime
cannot compute although it is a sound value is said elsewhere (support.py, layers.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wf_formats.bounds import INT32_MAX, Bounds, is_number
from wf_formats.decoder_config import MAX_EPS, MIN_EPS
from wf_formats.errors import LoadError
from wf_formats.families.base import FULL, SLIDING
from wf_formats.families.layers import LOCAL_BASE, MAX_LAYERS, rope_parameters
from wf_formats.rope import (
    BASE_BOUNDS,
    DEFAULT_BASE,
    MAX_HEAD_DIM,
    SHARE_BOUNDS,
    check_parameters,
    is_known_rope,
    rope_of,
)
from wf_formats.token_ids import token_id_faults


@dataclass(frozen=True)
class _Number:
    """A number; where it may be null that means what leaving it out means."""

    bounds: Bounds
    is_whole: bool = False
    may_be_null: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.may_be_null
        return is_number(value, self.bounds, self.is_whole)

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        return f"{kind} {self.bounds}" + (" or null" if self.may_be_null else "")


_SIZE, _OPTIONAL_SIZE = _Number(Bounds(1, INT32_MAX), True), _Number(Bounds(1, INT32_MAX), True, True)
_BASE, _SHARE = _Number(BASE_BOUNDS, may_be_null=True), _Number(Bounds(0, 1), may_be_null=True)
NUMBERS: Mapping[str, _Number] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"), _SIZE),
    "num_hidden_layers": _Number(Bounds(1, MAX_LAYERS), True),
    "num_key_value_heads": _OPTIONAL_SIZE,
    "head_dim": _Number(Bounds(1, MAX_HEAD_DIM), True, True),
    "max_position_embeddings": _SIZE,
    "original_max_position_embeddings": _OPTIONAL_SIZE,
    "sliding_window": _OPTIONAL_SIZE,
    "max_window_layers": _Number(Bounds(0, INT32_MAX), True, True),
    "sliding_window_pattern": _OPTIONAL_SIZE,
    "_sliding_window_pattern": _OPTIONAL_SIZE,
    "no_rope_layer_interval": _OPTIONAL_SIZE,
    "rms_norm_eps": _Number(Bounds(MIN_EPS, MAX_EPS)),
    "rope_theta": _BASE,
    LOCAL_BASE: _BASE,
    "partial_rotary_factor": _Number(SHARE_BOUNDS, may_be_null=True),
    "query_pre_attn_scalar": _Number(Bounds(1e-6, 1e6)),
    "initializer_range": _Number(Bounds(0, 1e3), may_be_null=True),
    **dict.fromkeys(("attention_dropout", "resid_pdrop", "embd_pdrop"), _SHARE),
}
"""Keys that hold a number, where they are there."""
FLAGS = (
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "use_cache",
    "use_sliding_window",
    "use_bidirectional_attention",
)
"""Keys that hold true, false or null."""
DTYPES = ("float32", "float16", "bfloat16", "float64")


def check_values(config: Mapping[str, Any]) -> None:
    """Looks at every value of a config.json that sizes, scales or chooses something, where it is there.

    Raises:
        LoadError: one of a wrong kind or out of its range, or two that contradict each other; names key and
            value.
    """
    for key, value, allowed in _faults(config):
        raise LoadError(f"config.json: {key} is {value!r:.60}, not {allowed}")
    _check_heads(config)
    _check_rope(config)


def required(config: Mapping[str, Any], key: str) -> Any:
    """A value of NUMBERS that `check_values` has seen; raises LoadError where it is missing."""
    if config.get(key) is None:
        raise LoadError(f"config.json: {key} is None, not {NUMBERS[key]}")
    return config[key]


def _faults(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, object]]:
    """Key, value and what is allowed."""
    for key, number in NUMBERS.items():
        if key in config and config[key] not in number:
            yield key, config[key], number
    for key in FLAGS:
        if not isinstance(config.get(key), bool | None):
            yield key, config[key], "true, false or null"
    for key in ("dtype", "torch_dtype"):
        if (name := config.get(key)) is not None and not _is_dtype(name):
            yield key, name, f"one of {', '.join(DTYPES)}"
    for key, entry in (("layer_types", str), ("no_rope_layers", int)):
        listed = config.get(key)
        if listed is not None and not (isinstance(listed, list) and all(type(e) is entry for e in listed)):
            yield key, listed, "a list of names" if entry is str else "a list of 0 and 1"
    # What begins and ends a text is the tokenizer's matter; old files keep their class's defaults here.
    yield from token_id_faults(config, ("bos_token_id", "eos_token_id"), None)
    yield from token_id_faults(config, ("pad_token_id",), config.get("vocab_size"))


def _is_dtype(name: object) -> bool:
    return isinstance(name, str) and name in DTYPES


def _check_heads(config: Mapping[str, Any]) -> None:
    """Heads share the hidden size and the keys' heads; rotary positions turn pairs of elements."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if hidden is None or heads is None:
        return
    head_dim = config.get("head_dim")
    if head_dim is None and hidden % heads:
        raise LoadError(
            f"config.json: hidden_size {hidden} does not divide among num_attention_heads {heads}, and there "
            "is no head_dim"
        )
    head_dim = head_dim or hidden // heads
    if head_dim % 2:
        raise LoadError(f"config.json: head_dim {head_dim} is odd, rotary positions need pairs")
    if heads % (kv_heads := config.get("num_key_value_heads") or heads):
        raise LoadError(
            f"config.json: num_attention_heads {heads} do not divide among num_key_value_heads {kv_heads}"
        )


def _check_rope(config: Mapping[str, Any]) -> None:
    """Parameters of rotary positions within their ranges, and frequencies that can be computed of them."""
    for rope in rope_objects(config):
        check_parameters(rope)
    if config.get("hidden_size") is None or config.get("num_attention_heads") is None:
        return
    complete = {"rope_theta": DEFAULT_BASE} | {k: v for k, v in config.items() if v is not None}
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for layer_type in (FULL, SLIDING):
        rope = rope_parameters(complete, layer_type)
        if is_known_rope(rope):
            rope_of(head_dim, rope)


def rope_objects(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects of rotary parameters in a config.json, under either name, for all layers or by their type.

    Raises:
        LoadError: something else stands there.
    """
    for key in ("rope_parameters", "rope_scaling"):
        yield from _objects(key, config.get(key))


def _objects(key: str, given: Any) -> Iterator[Mapping[str, Any]]:
    """The object under a key, or those of the types of layers in it."""
    if given is None or given == []:
        return
    if not isinstance(given, Mapping):
        raise LoadError(f"config.json: {key} is {given!r:.60}, not an object")
    if FULL in given or SLIDING in given:
        for layer_type, rope in given.items():
            yield from _objects(f"{key}.{layer_type}", rope)
    else:
        yield given
