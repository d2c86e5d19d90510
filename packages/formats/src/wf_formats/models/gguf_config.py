"""Hyperparameter keys of a GGUF file -> DecoderConfig; a key that is not understood is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wf_formats.decoder_config import ACTIVATIONS, Activation, DecoderConfig
from wf_formats.errors import LoadError
from wf_formats.families import GgufArch
from wf_formats.rope import inverse_frequencies, scaled_frequencies

DEFAULT_ROPE_BASE = 10000.0
"""llama.cpp's, where the file has no rope.freq_base."""


_USED = frozenset(
    {
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "vocab_size",
        "hidden_activation",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "attention.causal",
        "expert_count",
        "expert_used_count",
        "rope.freq_base",
        "rope.dimension_count",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        "tensor_data_layout",
        "use_parallel_residual",
        "rope.scaling.original_context_length",  # of yarn, which is refused
        "rope.scaling.finetuned",
    }
)


def read_config(
    keys: Mapping[str, Any], arch: GgufArch, vocab_size: int, rope_divisors: np.ndarray | None
) -> DecoderConfig:
    """The configuration of a file.

    Args:
        vocab_size: rows of the embedding matrix.
        rope_divisors: fp32 [head_dim / 2], the tensor rope_freqs.weight.

    Raises:
        LoadError: a key is missing, of a wrong kind or means something that is not supported.
    """
    settings = _Settings(keys, arch.name)
    settings.check_known()
    context = settings.integer("context_length")
    hidden, num_heads = settings.integer("embedding_length"), settings.integer("attention.head_count")
    head_dim = settings.integer("attention.key_length", hidden // num_heads)
    _check_attention(settings, head_dim, context)
    settings.must_be("vocab_size", vocab_size)
    try:
        return DecoderConfig(
            hidden_size=hidden,
            intermediate_size=settings.integer("feed_forward_length"),
            num_layers=settings.integer("block_count"),
            num_heads=num_heads,
            num_kv_heads=settings.integer("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            vocab_size=vocab_size,
            rms_norm_eps=settings.number("attention.layer_norm_rms_epsilon"),
            activation=_activation(settings, arch),
            rope_inverse_frequencies=_frequencies(settings, head_dim, rope_divisors),
            context_tokens=context,
        )
    except LoadError:
        raise
    except ValueError as error:
        raise LoadError(f"{arch.name}: {error}") from error


@dataclass(frozen=True)
class _Settings:
    """The keys `<arch>.<name>`."""

    keys: Mapping[str, Any]
    arch: str

    def get(self, name: str) -> Any:
        return self.keys.get(f"{self.arch}.{name}")

    def integer(self, name: str, default: int | None = None) -> int:
        value = default if self.get(name) is None else self.get(name)
        if value is None:
            raise LoadError(f"key {self.arch}.{name} is missing")
        if type(value) is not int or not 0 < value < 1 << 31:
            per_layer = " (a value per layer is not supported)" if isinstance(value, list) else ""
            raise LoadError(f"{self.arch}.{name} is {value!r:.60}, not a positive whole number{per_layer}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = default if self.get(name) is None else self.get(name)
        if value is None:
            raise LoadError(f"key {self.arch}.{name} is missing")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise LoadError(f"{self.arch}.{name} is {value!r:.60}, not a positive number")
        return float(value)

    def must_be(self, name: str, *allowed: Any) -> None:
        """The key is absent or has one of these values."""
        if (value := self.get(name)) is not None and value not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise LoadError(f"{self.arch}.{name} is {value!r:.60}; only {wanted} is supported here")

    def check_known(self) -> None:
        prefix = f"{self.arch}."
        for key, value in self.keys.items():
            name = key.removeprefix(prefix)
            if name != key and name not in _USED and name not in _WITHOUT_EFFECT:
                raise LoadError(
                    f"key {key} = {value!r:.60} is not understood; ignoring it may change answers"
                )


def _check_attention(settings: _Settings, head_dim: int, context: int) -> None:
    settings.must_be("attention.value_length", head_dim)
    settings.must_be("rope.dimension_count", head_dim)
    settings.must_be("attention.causal", True)
    settings.must_be("expert_count", 0)
    settings.must_be("expert_used_count", 0)
    window = settings.get("attention.sliding_window")
    if window is not None and (type(window) is not int or 0 < window < context):
        raise LoadError(
            f"{settings.arch}.attention.sliding_window is {window!r}, less than the context of {context}; "
            "sliding windows are not supported"
        )


def _activation(settings: _Settings, arch: GgufArch) -> Activation:
    name = settings.get("hidden_activation")
    if name is None:
        return arch.activation
    for known in ACTIVATIONS:
        if name == known:
            return known
    raise LoadError(f"{settings.arch}.hidden_activation is {name!r}; known are {', '.join(ACTIVATIONS)}")


def _frequencies(settings: _Settings, head_dim: int, divisors: np.ndarray | None) -> tuple[float, ...]:
    base = settings.number("rope.freq_base", DEFAULT_ROPE_BASE)
    settings.must_be("rope.scale_linear", 1, 1.0)
    kind = settings.get("rope.scaling.type") or "none"
    if kind not in ("none", "linear"):
        raise LoadError(f"{settings.arch}.rope.scaling.type {kind!r} is not supported, only none and linear")
    frequencies = inverse_frequencies(head_dim, base)
    if kind == "linear":
        rope = {"rope_type": "linear", "rope_theta": base, "factor": settings.number("rope.scaling.factor")}
        frequencies = scaled_frequencies(head_dim, rope)
    if divisors is not None:
        if divisors.size != head_dim // 2 or not (np.isfinite(divisors).all() and (divisors > 0).all()):
            raise LoadError(f"rope_freqs.weight: {head_dim // 2} positive divisors expected")
        frequencies = frequencies / divisors.reshape(-1)
    return tuple(frequencies.tolist())
