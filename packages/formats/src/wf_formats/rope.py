"""Inverse frequencies of the rotary positions, with the scalings that models of these kinds use.

    default   f_i = theta ** (-2 i / head_dim)
    linear    f_i / factor
    llama3    wavelengths beyond the original context are stretched by `factor`, those well inside stay,
              those between are interpolated (Llama 3.1)
    rope_freqs.weight of a GGUF file divides f_i

Half-split convention: frequency i turns elements i and i + head_dim / 2 of a head. Computed in fp32 in
the order of transformers, so that positions turn by the same angles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from wf_formats.errors import LoadError

MAX_HEAD_DIM = 1 << 14
"""Far beyond any model; bounds what a damaged file can make us allocate."""
_PLAIN = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_KNOWN: dict[str, frozenset[str]] = {
    "default": _PLAIN,
    "linear": _PLAIN | {"factor"},
    "llama3": _PLAIN | {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}


def inverse_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """fp32 [head_dim / 2], unscaled. Raises LoadError for a base that makes none."""
    if not (isinstance(theta, (int, float)) and math.isfinite(theta) and theta > 0):
        raise LoadError(f"the rotary base is {theta!r}, not a positive number")
    if head_dim > MAX_HEAD_DIM:
        raise LoadError(f"heads of {head_dim} elements; at most {MAX_HEAD_DIM} are supported")
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1) / np.power(np.float32(theta), exponents)


def scaled_frequencies(head_dim: int, rope: Mapping[str, Any]) -> np.ndarray:
    """fp32 [head_dim / 2] for the `rope_parameters` of a config.json.

    Raises:
        LoadError: an unknown scaling or a parameter that it does not have.
    """
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _KNOWN:
        raise LoadError(f"rotary scaling {kind!r} is not supported; supported are {', '.join(_KNOWN)}")
    if unknown := [key for key in rope if key not in _KNOWN[kind] and rope[key] is not None]:
        raise LoadError(f"rope parameter {unknown[0]!r} = {rope[unknown[0]]!r} is not supported ({kind})")
    if (share := rope.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise LoadError(f"partial_rotary_factor is {share}; only whole heads can be rotated")
    plain = inverse_frequencies(head_dim, rope["rope_theta"])
    if kind == "linear":
        return plain / np.float32(_positive(rope, "factor"))
    return _llama3(plain, rope) if kind == "llama3" else plain


def frequency_divisors(head_dim: int, rope: Mapping[str, Any]) -> np.ndarray:
    """fp32 [head_dim / 2]: what a scaling divides each plain frequency by (`rope_freqs.weight` of GGUF).

    Raises:
        LoadError: as `scaled_frequencies`.
    """
    plain = inverse_frequencies(head_dim, rope["rope_theta"]).astype(np.float64)
    return (plain / scaled_frequencies(head_dim, rope)).astype(np.float32)


def _llama3(plain: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    factor, context = _positive(rope, "factor"), _positive(rope, "original_max_position_embeddings")
    low, high = _positive(rope, "low_freq_factor"), _positive(rope, "high_freq_factor")
    if high <= low:
        raise LoadError(f"rope high_freq_factor {high} is not above low_freq_factor {low}")
    wavelengths = np.float32(2 * math.pi) / plain
    share = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = (1 - share) * (plain / np.float32(factor)) + share * plain
    scaled = np.where(wavelengths > context / low, plain / np.float32(factor), between)
    return np.where(wavelengths < context / high, plain, scaled).astype(np.float32)


def _positive(rope: Mapping[str, Any], key: str) -> float:
    value = rope.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise LoadError(f"rope {key} is {value!r}, not a positive number")
    return float(value)
