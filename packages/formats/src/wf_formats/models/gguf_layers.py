"""Windows and rotary positions of each layer, out of the keys of a GGUF file, as llama.cpp derives them.

    attention.sliding_window          tokens that a layer with a window sees
    attention.sliding_window_pattern  arch "period": n, every n-th layer sees everything;
                                      arch "layers": a flag for each layer
    attention.rope_pattern            a flag for each layer that has rotary positions
    rope.freq_base, rope.scaling.*    of all layers; where windowed ones have a base of their own
                                      (rope.freq_base_swa) they are not scaled
    rope_freqs.weight                 divides the frequencies

YaRN turns by llama.cpp's own constants and multiplies cosine and sine by
attn_factor (0.1 ln(factor) + 1); with yarn_log_multiplier m that is divided by 0.1 m ln(factor) + 1.

Source: llama.cpp's hyperparameters, context set-up and ggml_rope_yarn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wf_formats.decoder_config import LayerAttention
from wf_formats.errors import LoadError
from wf_formats.families import GgufArch
from wf_formats.models.gguf_settings import GgufSettings
from wf_formats.rope import DEFAULT_BASE, Rope, magnitude_scale, rope_of


def read_attention(
    settings: GgufSettings,
    arch: GgufArch,
    num_layers: int,
    head_dim: int,
    context: int,
    divisors: np.ndarray | None,
) -> tuple[LayerAttention, ...]:
    """Attention of all layers.

    Args:
        divisors: fp32 [head_dim / 2], the tensor rope_freqs.weight.

    Raises:
        LoadError: a key is of a wrong kind or means something that is not supported.
    """
    windows = _windows(settings, arch, num_layers, context)
    rope = _rope(settings, head_dim, context, divisors)
    local = _local_rope(settings, head_dim) if arch.has_local_rope else rope
    slides = _sliding_layers(settings, arch, num_layers)
    turns = _rotated_layers(settings, arch, num_layers)
    return tuple(
        LayerAttention((local if slides[i] else rope) if turns[i] else None, windows[i])
        for i in range(num_layers)
    )


def _windows(settings: GgufSettings, arch: GgufArch, num_layers: int, context: int) -> list[int | None]:
    window = settings.get("attention.sliding_window")
    if window is None or window == 0:
        return [None] * num_layers
    if type(window) is not int or not 0 < window < 1 << 31:
        raise LoadError(f"{settings.arch}.attention.sliding_window is {window!r:.60}, not a number of tokens")
    if window >= context:
        return [None] * num_layers
    if arch.windows == "none":
        raise LoadError(
            f"{settings.arch}.attention.sliding_window is {window}, less than the context of {context}; "
            f"sliding windows are not supported in arch {arch.name}, which llama.cpp computes without"
        )
    slides = _sliding_layers(settings, arch, num_layers)
    return [window if slides[index] else None for index in range(num_layers)]


def _sliding_layers(settings: GgufSettings, arch: GgufArch, num_layers: int) -> list[bool]:
    if arch.windows == "none" or not settings.get("attention.sliding_window"):
        return [False] * num_layers
    if arch.windows == "layers":
        return _flags(settings, "attention.sliding_window_pattern", num_layers)
    period = settings.integer("attention.sliding_window_pattern", arch.window_period)
    return [(index + 1) % period != 0 for index in range(num_layers)]


def _rotated_layers(settings: GgufSettings, arch: GgufArch, num_layers: int) -> list[bool]:
    if arch.tells_rope_layers and settings.get("attention.rope_pattern") is not None:
        return _flags(settings, "attention.rope_pattern", num_layers)
    return [not arch.nope_step or (index + 1) % arch.nope_step != 0 for index in range(num_layers)]


def _flags(settings: GgufSettings, name: str, num_layers: int) -> list[bool]:
    flags: Any = settings.get(name)
    if not isinstance(flags, list) or len(flags) != num_layers:
        raise LoadError(f"{settings.arch}.{name} is {flags!r:.60}, not {num_layers} flags, one a layer")
    return [bool(flag) for flag in flags]


def _local_rope(settings: GgufSettings, head_dim: int) -> Rope:
    return rope_of(head_dim, {"rope_theta": settings.number("rope.freq_base_swa", DEFAULT_BASE)})


def _rope(settings: GgufSettings, head_dim: int, context: int, divisors: np.ndarray | None) -> Rope:
    settings.must_be("rope.scale_linear", 1, 1.0)
    rope: dict[str, Any] = {"rope_theta": settings.number("rope.freq_base", DEFAULT_BASE)}
    kind = settings.get("rope.scaling.type") or "linear"
    if kind not in ("none", "linear", "yarn"):
        known = "none, linear and yarn"
        raise LoadError(f"{settings.arch}.rope.scaling.type {kind!r} is not supported, only {known}")
    factor = settings.number("rope.scaling.factor", 1.0)
    scale = settings.number("rope.scaling.attn_factor", 1.0)
    if kind == "linear" and factor != 1:
        rope |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        original = settings.integer("rope.scaling.original_context_length", context)
        rope |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        scale *= _yarn_scale(settings, factor)
    frequencies = np.asarray(rope_of(head_dim, rope).inverse_frequencies, np.float32)
    if divisors is not None:
        if divisors.size != head_dim // 2 or not (np.isfinite(divisors).all() and (divisors > 0).all()):
            raise LoadError(f"rope_freqs.weight: {head_dim // 2} positive divisors expected")
        frequencies = frequencies / divisors.reshape(-1)
    return Rope(tuple(frequencies.tolist()), scale)


def _yarn_scale(settings: GgufSettings, factor: float) -> float:
    if not settings.get("rope.scaling.yarn_log_multiplier"):
        return magnitude_scale(factor)
    return magnitude_scale(factor) / magnitude_scale(
        factor, settings.number("rope.scaling.yarn_log_multiplier")
    )
