"""Rotary positions: inverse frequencies and the factor on cosine and sine, for the scalings that models use.

    default   f_i = theta ** (-2 i / dim)
    linear    f_i / factor
    dynamic   f_i, as long as a text is no longer than max_position_embeddings; beyond that transformers
              moves the base with every token (NTK), which no fixed table can, so the context ends there
    llama3    wavelengths beyond the original context are stretched by `factor`, those well inside stay,
              those between are interpolated (Llama 3.1)
    yarn      as llama3 in frequency index instead of wavelength, between beta_slow and beta_fast turns of
              the original context; cosine and sine are multiplied by attention_factor, by default
              0.1 ln(factor) + 1 (Peng et al. 2023, arXiv 2309.00071)
    longrope  f_i / short_factor_i up to the original context (beyond it long_factor_i, and the context ends
              there); cosine and sine are multiplied by sqrt(1 + ln(factor) / ln(original context)) (Ding et
              al. 2024, arXiv 2402.13753)
    rope_freqs.weight of a GGUF file divides f_i

Half-split convention: frequency i turns elements i and i + dim / 2 of a head's first `dim` elements; with
partial_rotary_factor below 1 the rest stays as it is. Computed in fp32 in the order of transformers, so
that positions turn by the same angles.

Source: transformers' modeling_rope_utils, llama.cpp's ggml_rope_yarn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wf_formats.bounds import INT32_MAX, Bounds, is_number
from wf_formats.errors import LoadError

MAX_HEAD_DIM = 1 << 14
"""Far beyond any model; bounds what a damaged file can make us allocate."""
DEFAULT_BETA_FAST, DEFAULT_BETA_SLOW = 32.0, 1.0
"""YaRN's, where a model names none; llama.cpp knows no others."""
NO_TURN = 1e30
"""Divides the frequency of elements that do not turn: the angle is lost in rounding at any position."""
_PLAIN = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_YARN = {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"}
_YARN |= {"mscale", "mscale_all_dim", "truncate", "finetuned"}
_KNOWN: dict[str, frozenset[str]] = {
    "default": _PLAIN,
    "linear": _PLAIN | {"factor"},
    "dynamic": _PLAIN | {"factor", "original_max_position_embeddings"},
    "llama3": _PLAIN | {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": _PLAIN | _YARN,
    "longrope": _PLAIN
    | {"short_factor", "long_factor", "factor", "original_max_position_embeddings", "attention_factor"},
}
ROPE_KINDS = tuple(_KNOWN)
"""Names of the scalings in a config.json."""
DEFAULT_BASE = 10000.0
"""Where a config.json names none."""
BASE_BOUNDS, SHARE_BOUNDS = Bounds(1, 1e30), Bounds(0, 1, is_open=True)
_FACTOR_BOUNDS = Bounds(1e-3, 1e6)
_DEFAULT_AT_ZERO = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""Parameters of YaRN for which 0 means what leaving them out means."""
_BOUNDS: Mapping[str, Bounds] = {
    "rope_theta": BASE_BOUNDS,
    "partial_rotary_factor": SHARE_BOUNDS,
    "original_max_position_embeddings": Bounds(1, INT32_MAX),
    "factor": _FACTOR_BOUNDS,
    "attention_factor": _FACTOR_BOUNDS,
    "low_freq_factor": _FACTOR_BOUNDS,
    "high_freq_factor": _FACTOR_BOUNDS,
    **dict.fromkeys(_DEFAULT_AT_ZERO, _FACTOR_BOUNDS),
}
"""Of the parameters: so that frequencies and angles up to any context are numbers of float32."""


@dataclass(frozen=True)
class Rope:
    """The rotary positions of a layer."""

    inverse_frequencies: tuple[float, ...]
    """At most head_dim / 2, scaling applied; frequency i turns elements i and i + (their number)."""
    attention_factor: float = 1.0
    """Multiplies cosine and sine."""

    def __post_init__(self) -> None:
        frequencies = self.inverse_frequencies
        if not all(math.isfinite(frequency) and frequency >= 0 for frequency in frequencies):
            raise ValueError(f"rotary frequencies {frequencies} are not all finite and positive")
        if not 0 < self.attention_factor < math.inf:
            raise ValueError(f"the attention factor {self.attention_factor} is not a positive number")


def check_parameters(rope: Mapping[str, Any]) -> None:
    """Looks at the numbers among the `rope_parameters` of a config.json, whatever its scaling is called.

    Raises:
        LoadError: one that is none or out of its range.
    """
    for key in _BOUNDS:
        value = rope.get(key)
        is_default = key in _DEFAULT_AT_ZERO and type(value) in (int, float) and value == 0
        if value is not None and not is_default:
            _number(rope, key)
    for key in ("short_factor", "long_factor"):
        if rope.get(key) is not None:
            _factors(rope, key)


def is_known_rope(rope: Mapping[str, Any]) -> bool:
    """Whether the frequencies of a scaling can be computed here."""
    try:
        rope_kind(rope)
    except LoadError:
        return False
    return True


def inverse_frequencies(num_elements: int, theta: float) -> np.ndarray:
    """fp32 [num_elements / 2], unscaled. Raises LoadError for a base that makes none."""
    if not is_number(theta, BASE_BOUNDS):
        raise LoadError(f"the rotary base is {theta!r}, not a number {BASE_BOUNDS}")
    if num_elements > MAX_HEAD_DIM:
        raise LoadError(f"heads of {num_elements} elements; at most {MAX_HEAD_DIM} are supported")
    exponents = np.arange(0, num_elements, 2, dtype=np.float32) / np.float32(num_elements)
    return np.float32(1) / np.power(np.float32(theta), exponents)


def rope_kind(rope: Mapping[str, Any]) -> str:
    """Name of a scaling; raises LoadError for an unknown one or a parameter that it does not have."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if not isinstance(kind, str) or kind not in _KNOWN:
        raise LoadError(f"rotary scaling {kind!r} is not supported; supported are {', '.join(_KNOWN)}")
    if unknown := [key for key in rope if key not in _KNOWN[kind] and rope[key] is not None]:
        raise LoadError(f"rope parameter {unknown[0]!r} = {rope[unknown[0]]!r:.60} is not supported ({kind})")
    return kind


def rotated_elements(head_dim: int, rope: Mapping[str, Any]) -> int:
    """How many elements of a head turn; raises LoadError for a share that is none."""
    share = rope.get("partial_rotary_factor")
    if share is None:
        return head_dim
    if not is_number(share, SHARE_BOUNDS):
        raise LoadError(f"partial_rotary_factor is {share!r}, not a share of a head {SHARE_BOUNDS}")
    num_elements = int(head_dim * share)
    if num_elements < 2 or num_elements % 2:
        raise LoadError(f"partial_rotary_factor {share} turns {num_elements} elements of a head: need pairs")
    return num_elements


def scaled_frequencies(head_dim: int, rope: Mapping[str, Any]) -> np.ndarray:
    """fp32 [rotated elements / 2] for the `rope_parameters` of a config.json.

    Raises:
        LoadError: an unknown scaling or a parameter that it does not have.
    """
    kind = rope_kind(rope)
    plain = inverse_frequencies(rotated_elements(head_dim, rope), rope["rope_theta"])
    if kind == "linear":
        return plain / np.float32(_number(rope, "factor"))
    if kind == "yarn":
        return _yarn(plain, rope)
    if kind == "longrope":
        return _longrope(plain, rope)
    return _llama3(plain, rope) if kind == "llama3" else plain


def rope_of(head_dim: int, rope: Mapping[str, Any]) -> Rope:
    """What the decoder turns heads by, for the `rope_parameters` of a config.json.

    Raises:
        LoadError: as `scaled_frequencies`.
    """
    frequencies = scaled_frequencies(head_dim, rope)
    return Rope(tuple(frequencies.tolist()), attention_factor(rope))


def frequency_divisors(head_dim: int, rope: Mapping[str, Any]) -> np.ndarray:
    """fp32 [head_dim / 2]: what divides each plain frequency of a whole head (`rope_freqs.weight`).

    Elements that do not turn are divided by NO_TURN.

    Raises:
        LoadError: as `scaled_frequencies`.
    """
    plain = inverse_frequencies(head_dim, rope["rope_theta"]).astype(np.float64)
    scaled = scaled_frequencies(head_dim, rope)
    divisors = np.full(plain.size, NO_TURN)
    divisors[: scaled.size] = plain[: scaled.size] / scaled
    return divisors.astype(np.float32)


def attention_factor(rope: Mapping[str, Any]) -> float:
    """What a scaling multiplies cosine and sine by."""
    if (kind := rope_kind(rope)) not in ("yarn", "longrope"):
        return 1.0
    if rope.get("attention_factor") is not None:
        return _number(rope, "attention_factor")
    factor = _number(rope, "factor")
    if kind == "longrope":
        return _longrope_scale(factor, _number(rope, "original_max_position_embeddings"))
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        own, of_all = _number(rope, "mscale"), _number(rope, "mscale_all_dim")
        return magnitude_scale(factor, own) / magnitude_scale(factor, of_all)
    return magnitude_scale(factor)


def magnitude_scale(factor: float, share: float = 1.0) -> float:
    """YaRN's factor on cosine and sine for a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1.0


def is_default_yarn(rope: Mapping[str, Any]) -> bool:
    """Whether llama.cpp's own YaRN makes these frequencies: the default turns, whole frequency indices."""
    betas = (rope.get("beta_fast") or DEFAULT_BETA_FAST, rope.get("beta_slow") or DEFAULT_BETA_SLOW)
    return betas == (DEFAULT_BETA_FAST, DEFAULT_BETA_SLOW) and rope.get("truncate") in (None, True)


def _llama3(plain: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    factor, context = _number(rope, "factor"), _number(rope, "original_max_position_embeddings")
    low, high = _number(rope, "low_freq_factor"), _number(rope, "high_freq_factor")
    if high <= low:
        raise LoadError(f"rope high_freq_factor {high} is not above low_freq_factor {low}")
    wavelengths = np.float32(2 * math.pi) / plain
    share = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = (1 - share) * (plain / np.float32(factor)) + share * plain
    scaled = np.where(wavelengths > context / low, plain / np.float32(factor), between)
    return np.where(wavelengths < context / high, plain, scaled).astype(np.float32)


def _yarn(plain: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    factor = _number(rope, "factor")
    low, high = _interpolated_range(plain.size, rope)
    ramp = (np.arange(plain.size, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = 1 - np.clip(ramp, 0, 1)
    stretched = np.float32(1) / (np.float32(factor) * (np.float32(1) / plain))
    return (stretched * (1 - kept) + plain * kept).astype(np.float32)


def _longrope(plain: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    factors = _factors(rope, "short_factor")
    if len(factors) != plain.size:
        raise LoadError(f"rope short_factor is {factors!r:.60}, not {plain.size} numbers")
    return np.float32(1) / (np.asarray(factors, np.float32) * (np.float32(1) / plain))


def _factors(rope: Mapping[str, Any], key: str) -> list[float]:
    factors = rope.get(key)
    if not isinstance(factors, list):
        raise LoadError(f"rope {key} is {factors!r:.60}, not a list of numbers")
    if not all(is_number(factor, _FACTOR_BOUNDS) for factor in factors):
        raise LoadError(
            f"rope {key} has an entry that is not a positive number {_FACTOR_BOUNDS}: {factors!r:.60}"
        )
    return factors


def _longrope_scale(factor: float, context: float) -> float:
    if factor <= 1:
        return 1.0
    if context <= 1:
        raise LoadError(f"rope original_max_position_embeddings is {context}, too short to be scaled")
    return math.sqrt(1 + math.log(factor) / math.log(context))


def _interpolated_range(num_frequencies: int, rope: Mapping[str, Any]) -> tuple[float, float]:
    """Frequency indices between which YaRN goes from the plain to the stretched frequency."""
    context, base = _number(rope, "original_max_position_embeddings"), float(rope["rope_theta"])
    if base == 1:
        raise LoadError("the rotary base is 1: all frequencies are the same, YaRN has nothing to scale")

    def index(key: str, default: float) -> float:
        turns = _number(rope, key) if rope.get(key) else default
        return num_frequencies * math.log(context / (turns * 2 * math.pi)) / math.log(base)

    low, high = index("beta_fast", DEFAULT_BETA_FAST), index("beta_slow", DEFAULT_BETA_SLOW)
    if rope.get("truncate") in (None, True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * num_frequencies - 1)
    return low, high + 0.001 if low == high else high


def _number(rope: Mapping[str, Any], key: str) -> float:
    value = rope.get(key)
    if not is_number(value, _BOUNDS[key]):
        raise LoadError(f"rope {key} is {value!r:.60}, not a number {_BOUNDS[key]}")
    return float(value)  # type: ignore[arg-type]
