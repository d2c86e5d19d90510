"""Windows and rotary positions of a checkpoint's layers as keys of a GGUF file.

wf_formats.models.gguf_layers reads them.

linear        rope.scaling.type linear, factor
yarn          rope.scaling.type yarn, factor, original_context_length; attn_factor where the model's
              factor on cosine and sine is not the usual 0.1 ln(factor) + 1, which llama.cpp multiplies in
parts of      rope_freqs, by which the other elements turn by an angle that is lost in rounding
heads
any other     rope_freqs divides the frequencies; attn_factor is the factor on cosine and sine
dynamic       nothing: up to the model's context it is the plain rotation, and that context is written
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import GGUFWriter, RopeScalingType

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_formats.families import GgufArch, family_of
from wf_formats.families.base import SLIDING
from wf_formats.families.layers import LayerKind, read_layers, rope_parameters
from wf_formats.families.support import window_period
from wf_formats.rope import (
    attention_factor,
    frequency_divisors,
    is_default_yarn,
    magnitude_scale,
    rope_kind,
    rotated_elements,
)


def write_layers(writer: GGUFWriter, checkpoint: ConvertedCheckpoint, arch: GgufArch) -> None:
    """Adds the keys of windows and rotary positions."""
    layers = read_layers(checkpoint.config, family_of(checkpoint.model_type))
    if arch.windows != "none":
        context = checkpoint.config["max_position_embeddings"]
        window = next((layer.window for layer in layers if layer.window is not None), context)
        _write_windows(writer, layers, arch, window)
    if arch.tells_rope_layers:
        flags = [layer.rope is not None for layer in layers]
        writer.add_array(f"{arch.name}.attention.rope_pattern", flags)
    if arch.has_local_rope:
        base = rope_parameters(checkpoint.config, SLIDING)["rope_theta"]
        writer.add_float32(f"{arch.name}.rope.freq_base_swa", base)
    writer.add_rope_dimension_count(checkpoint.head_dim)
    _write_rope(writer, checkpoint.rope, checkpoint.head_dim)


def rope_divisors(checkpoint: ConvertedCheckpoint, arch: GgufArch) -> np.ndarray | None:
    """fp32 [head_dim / 2] of `rope_freqs.weight`; None where keys say it all."""
    if not _needs_divisors(checkpoint.rope, checkpoint.head_dim):
        return None
    assert arch.has_rope_freqs, "checked by gguf_architecture"
    return frequency_divisors(checkpoint.head_dim, checkpoint.rope)


def _needs_divisors(rope: Mapping[str, Any], head_dim: int) -> bool:
    kind = rope_kind(rope)
    if rotated_elements(head_dim, rope) != head_dim:
        return True
    return kind in ("llama3", "longrope") or (kind == "yarn" and not is_default_yarn(rope))


def _write_windows(writer: GGUFWriter, layers: list[LayerKind], arch: GgufArch, window: int) -> None:
    """A window over the whole context is written too: llama.cpp turns such layers by their own base."""
    writer.add_sliding_window(window)
    name = f"{arch.name}.attention.sliding_window_pattern"
    if arch.windows == "layers":
        slides = [layer.window is not None for layer in layers]
        # It aborts where no layer has a window: then all have one over the whole context.
        writer.add_array(name, slides if any(slides) else [True] * len(layers))
    elif (period := window_period(layers)) is not None:
        writer.add_uint32(name, period)


def _write_rope(writer: GGUFWriter, rope: Mapping[str, Any], head_dim: int) -> None:
    writer.add_rope_freq_base(rope["rope_theta"])
    kind, scale = rope_kind(rope), attention_factor(rope)
    told = not _needs_divisors(rope, head_dim)
    if kind == "linear" and told:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn" and told:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        scale /= magnitude_scale(rope["factor"])
    if scale != 1:
        writer.add_rope_scaling_attn_factors(scale)
