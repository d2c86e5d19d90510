"""Hyperparameter keys of a GGUF file -> DecoderConfig; a key that is not understood is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from wf_formats.decoder_config import ACTIVATIONS, Activation, DecoderConfig
from wf_formats.diffusion import GGUF_PREFIX, BlockDiffusion
from wf_formats.errors import LoadError
from wf_formats.families import GgufArch
from wf_formats.families.base import Shape
from wf_formats.families.layers import MAX_LAYERS
from wf_formats.models.gguf_layers import read_attention
from wf_formats.models.gguf_settings import GgufSettings

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
        "attention.sliding_window_pattern",
        "attention.rope_pattern",
        "attention.causal",
        "attention.scale",
        "expert_count",
        "expert_used_count",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.dimension_count",
        "rope.dimension_count_swa",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_log_multiplier",
        "logit_scale",
        "residual_scale",
        "embedding_scale",
    }
)
_OF_DIFFUSION = tuple(field.name for field in dataclasses.fields(BlockDiffusion))
"""Keys of the architectures of block diffusion alone."""
_WITHOUT_EFFECT = frozenset(
    {
        "tensor_data_layout",
        "use_parallel_residual",
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
    settings = GgufSettings(keys, arch.name)
    _check_known(settings, arch)
    context = settings.integer("context_length")
    hidden, num_heads = settings.integer("embedding_length"), settings.integer("attention.head_count")
    num_layers = settings.integer("block_count", at_most=MAX_LAYERS)
    head_dim = settings.integer("attention.key_length", hidden // num_heads)
    _check_attention(settings, head_dim)
    settings.must_be("vocab_size", vocab_size)
    try:
        return DecoderConfig(
            hidden_size=hidden,
            intermediate_size=settings.integer("feed_forward_length"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=settings.integer("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            vocab_size=vocab_size,
            rms_norm_eps=settings.number("attention.layer_norm_rms_epsilon"),
            activation=_activation(settings, arch),
            attention=read_attention(settings, arch, num_layers, head_dim, context, rope_divisors),
            attention_scale=arch.attention_scale(Shape(num_layers, hidden, num_heads, head_dim)),
            context_tokens=context,
            embedding_scale=math.sqrt(hidden) if arch.scales_embedding else 1.0,
            diffusion=gguf_diffusion(keys),
        )
    except LoadError:
        raise
    except ValueError as error:
        raise LoadError(f"{arch.name}: {error}") from error


def _check_known(settings: GgufSettings, arch: GgufArch) -> None:
    known = {*_USED, *_WITHOUT_EFFECT, *(_OF_DIFFUSION if arch.is_diffusion else ())}
    for name, value in settings.items():
        if name not in known:
            what = f"key {settings.arch}.{name} = {value!r:.60}"
            raise LoadError(f"{what} is not understood; ignoring it may change answers")
    for name in ("logit_scale", "residual_scale", "embedding_scale", "attention.scale"):
        if settings.get(name) is not None and name not in arch.constants:
            raise LoadError(f"key {settings.arch}.{name} = {settings.get(name)!r:.60} is not understood")
    for name, wanted in arch.constants.items():
        settings.must_be(name, wanted)


def gguf_diffusion(keys: Mapping[str, Any]) -> BlockDiffusion | None:
    """What a file says of block diffusion; None: an autoregressive model.

    Raises:
        LoadError: a key of it is missing or impossible.
    """
    arch = keys.get("general.architecture")
    if not isinstance(arch, str) or not arch.startswith(GGUF_PREFIX):
        return None
    settings = GgufSettings(keys, arch)
    for name in _OF_DIFFUSION:
        if settings.get(name) is None:
            raise LoadError(f"key {settings.arch}.{name} is missing")
    return BlockDiffusion(**{name: settings.get(name) for name in _OF_DIFFUSION})


def _check_attention(settings: GgufSettings, head_dim: int) -> None:
    settings.must_be("attention.value_length", head_dim)
    settings.must_be("rope.dimension_count", head_dim)
    settings.must_be("attention.causal", True)
    settings.must_be("expert_count", 0)
    settings.must_be("expert_used_count", 0)


def _activation(settings: GgufSettings, arch: GgufArch) -> Activation:
    name = settings.get("hidden_activation")
    if name is None:
        return arch.activation
    for known in ACTIVATIONS:
        if name == known:
            return known
    raise LoadError(f"{settings.arch}.hidden_activation is {name!r}; known are {', '.join(ACTIVATIONS)}")
