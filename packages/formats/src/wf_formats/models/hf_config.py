"""config.json of a Hugging Face folder -> DecoderConfig and how the ternary matrices are stored.

    quantization_config              ternary matrices
    wrinklefree                      float master weights (training checkpoints)
    wrinklefree_packed               uint8 [out, in / 4], 4 codes a byte along the inputs, scale per group
    wrinklefree_phases               uint8 [planes out, in / 8], phases of complex weights (wf_formats.phases)
    bitnet, quantization_mode online float master weights, one scale per matrix (training checkpoints)
    compressed-tensors               int32 [out, in / 16], 16 codes a word along the inputs
    bitnet, offline                  uint8 [out / 4, in], 4 codes a byte by row blocks; weight_scale is
                                     1 / s for linear_class bitlinear and s for autobitlinear
    none                             floats that are ternary already; anything else is refused

Model types: wf_formats.families. Settings are taken as written: transformers' defaults are
not guessed, except where an absent key and null mean the same there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from wf_formats.decoder_config import Activation, DecoderConfig, LayerAttention
from wf_formats.diffusion import BlockDiffusion
from wf_formats.errors import LoadError
from wf_formats.families import Family, family_of
from wf_formats.families.layers import LayerKind, context_tokens, read_layers
from wf_formats.families.settings import check_values, required
from wf_formats.matrix import INT4_BITS, TERNARY_BITS
from wf_formats.models.hf_compressed import scheme_of
from wf_formats.rope import Rope, rope_of
from wf_formats.schemes import (
    COMPRESSED_METHOD,
    GROUP_SIZES,
    INT4_SCHEMES,
    MASTER_METHOD,
    PACKED_METHOD,
    PHASE_SCHEMES,
    PHASES_METHOD,
    SCHEMES,
    group_size,
)

ACTIVATION_NAMES: dict[str, Activation] = {
    "silu": "silu",
    "relu2": "relu2",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""transformers' names."""


_SETTINGS: dict[str, tuple[str, ...]] = {
    MASTER_METHOD: ("scheme", "sub_norm", "sub_norm_log2_floor", "low_rank"),
    PACKED_METHOD: ("scheme",),
    PHASES_METHOD: ("scheme",),
    "bitnet": ("linear_class", "quantization_mode", "modules_to_not_convert", "use_rms_norm", "rms_norm_eps"),
}
"""What a quantization_config says besides its quant_method; compressed-tensors: hf_compressed.py."""
_UNUSED: tuple[Any, ...] = (None, {}, [])
"""Values of settings that say nothing."""


class Storage(Enum):
    """What a matrix looks like in the file."""

    MASTER = "float master weights"
    PACKED_INPUTS = PACKED_METHOD
    PACKED_ROWS = "bitnet, packed"
    PACKED_WORDS = COMPRESSED_METHOD
    PHASES = PHASES_METHOD
    VALUES = "floats that are ternary already"


@dataclass(frozen=True)
class Quantization:
    """How the ternary matrices are stored."""

    storage: Storage
    scheme: str = "tensor"
    """What shares a scale (schemes.py)."""
    has_inverse_scales: bool = False
    has_sub_norms: bool = False
    """SubLN in a model type that has none by itself."""
    log2_floors: Mapping[str, int] | None = None
    """Exponents k of the SubLN floors that are not in the weights yet, by the name of the linear."""
    low_rank: int = 0
    """Rank of the linears' corrections; 0: they have none."""

    @property
    def group_size(self) -> int | None:
        """Inputs that share a scale; None: the whole matrix."""
        return group_size(self.scheme)

    @property
    def bits(self) -> int:
        """Of a code; of a real weight where planes of phases are stored."""
        if self.scheme in PHASE_SCHEMES:
            return PHASE_SCHEMES[self.scheme]
        return INT4_BITS if self.scheme in INT4_SCHEMES else TERNARY_BITS

    @property
    def has_zeros(self) -> bool:
        """Whether groups have zero points."""
        return self.scheme in INT4_SCHEMES and INT4_SCHEMES[self.scheme].has_zeros


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration.

    Args:
        config: as of the model in memory (`wf_formats.diffusion.model_settings`).

    Raises:
        LoadError: a setting is missing, of a wrong kind or not supported.
    """
    family = family_of(config.get("model_type"))
    check_values(config)
    hidden, num_heads = required(config, "hidden_size"), required(config, "num_attention_heads")
    head_dim = config.get("head_dim") or hidden // num_heads
    try:
        return DecoderConfig(
            hidden_size=hidden,
            intermediate_size=required(config, "intermediate_size"),
            num_layers=required(config, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=_kv_heads(config, family, num_heads),
            head_dim=head_dim,
            vocab_size=required(config, "vocab_size"),
            rms_norm_eps=float(required(config, "rms_norm_eps")),
            activation=activation_of(config, family),
            attention=_attention(config, family, head_dim),
            attention_scale=_attention_scale(config, family, head_dim),
            context_tokens=context_tokens(config),
            embedding_scale=math.sqrt(hidden) if family.scales_embedding else 1.0,
            diffusion=BlockDiffusion.from_settings(config),
        )
    except LoadError:
        raise
    except ValueError as error:
        raise LoadError(f"config.json: {error}") from error


def activation_of(config: Mapping[str, Any], family: Family) -> Activation:
    """The decoder's name of the activation; raises LoadError for one that it does not compute."""
    name = config.get(family.activation_key)
    if not isinstance(name, str) or name not in ACTIVATION_NAMES:
        known = ", ".join(ACTIVATION_NAMES)
        raise LoadError(f"{family.activation_key}: activation {name!r:.60} is not one of {known}")
    return ACTIVATION_NAMES[name]


def _attention(config: Mapping[str, Any], family: Family, head_dim: int) -> tuple[LayerAttention, ...]:
    made: dict[str, Rope] = {}

    def layer(kind: LayerKind) -> LayerAttention:
        if kind.rope is None:
            return LayerAttention(None, kind.window)
        if kind.type not in made:
            made[kind.type] = rope_of(head_dim, kind.rope)
        return LayerAttention(made[kind.type], kind.window)

    return tuple(map(layer, read_layers(config, family)))


def _attention_scale(config: Mapping[str, Any], family: Family, head_dim: int) -> float:
    key = family.attention_scale_key
    return (head_dim if key is None else required(config, key)) ** -0.5


def read_quantization(config: Mapping[str, Any]) -> Quantization:
    """How the matrices are stored.

    Raises:
        LoadError: an unknown method or option.
    """
    settings = config.get("quantization_config")
    if settings is None:
        return Quantization(Storage.VALUES)
    if not isinstance(settings, dict):
        raise LoadError(f"quantization_config is {settings!r:.60}, not an object")
    method = settings.get("quant_method")
    check_settings(method, settings)
    if method == "bitnet":
        return _bitnet(settings)
    if method == COMPRESSED_METHOD:
        return Quantization(Storage.PACKED_WORDS, scheme_of(settings))
    if method not in (MASTER_METHOD, PACKED_METHOD, PHASES_METHOD):
        known = f"{MASTER_METHOD}, {PACKED_METHOD}, {PHASES_METHOD}, {COMPRESSED_METHOD} and bitnet"
        raise LoadError(f"quant_method {method!r} is not supported; supported are {known}")
    scheme = settings.get("scheme")
    known_schemes = {PACKED_METHOD: SCHEMES, PHASES_METHOD: (*PHASE_SCHEMES,)}.get(
        method, (*SCHEMES, *PHASE_SCHEMES)
    )
    if not isinstance(scheme, str) or scheme not in known_schemes:
        known = ", ".join(known_schemes)
        raise LoadError(f"quantization scheme {scheme!r:.60} is unknown; known are {known}")
    if method == PACKED_METHOD:
        if GROUP_SIZES.get(scheme) is None:
            raise LoadError(f"wrinklefree_packed has ternary scales per group, its scheme here is {scheme!r}")
        return Quantization(Storage.PACKED_INPUTS, scheme)
    if method == PHASES_METHOD:
        return Quantization(Storage.PHASES, scheme)
    return Quantization(
        Storage.MASTER,
        scheme,
        has_sub_norms=bool(settings.get("sub_norm")),
        log2_floors=checked_floors(settings.get("sub_norm_log2_floor") or {}),
        low_rank=checked_rank(settings.get("low_rank", 0)),
    )


def check_settings(method: Any, settings: Mapping[str, Any]) -> None:
    """Raises LoadError for a setting of a quantization_config that is not known and says something: it could
    make another model of the same tensors."""
    known = _SETTINGS.get(method) if isinstance(method, str) else None
    for key, value in settings.items():
        if known is not None and key not in ("quant_method", *known) and value not in _UNUSED:
            raise LoadError(
                f"quantization_config.{key} is {value!r:.80}, which {method} does not have (known: "
                f"{', '.join(known)}); the folder was written by another release or changed: export it again"
            )


def read_packed_quantization(config: Mapping[str, Any]) -> Quantization:
    """How the matrices are stored, for servers that take packed ternary weights alone.

    Raises:
        LoadError: an unknown method or option; or float weights: the message says how to export them.
    """
    quantization = read_quantization(config)
    if quantization.storage is Storage.MASTER:
        raise LoadError(
            "the folder holds float master weights (a training checkpoint): export it first, by `wf export "
            "--checkpoint FOLDER --format compressed-tensors --output NEW`, with SubLN `--format hf`"
        )
    if quantization.storage is Storage.PHASES:
        raise LoadError(
            f"the folder holds complex weights ({quantization.scheme}), which the native engine alone runs: "
            "`wf serve --model FOLDER`"
        )
    if quantization.storage is Storage.VALUES:
        raise LoadError("the folder holds float weights, and no packed ternary ones (no quantization_config)")
    return quantization


def checked_floors(floors: Any) -> dict[str, int]:
    """SubLN floor exponents by linear; raises LoadError for anything else than small whole numbers."""
    if not isinstance(floors, dict) or not all(type(k) is int and -64 <= k <= 64 for k in floors.values()):
        raise LoadError(f"sub_norm_log2_floor is {floors!r:.60}, not an exponent for each linear")
    return floors


def checked_rank(rank: Any) -> int:
    """Rank of low-rank corrections; raises LoadError for anything else than a whole number from 0 on."""
    if type(rank) is not int or rank < 0:
        raise LoadError(f"low_rank is {rank!r:.60}, not a rank")
    return rank


def _bitnet(settings: Mapping[str, Any]) -> Quantization:
    mode, linear = settings.get("quantization_mode", "offline"), settings.get("linear_class", "bitlinear")
    if settings.get("use_rms_norm"):
        raise LoadError("quantization_config.use_rms_norm: norms inside the linears are not supported")
    kept = settings.get("modules_to_not_convert") or []
    if unknown := sorted(set(map(str, kept)) - {"lm_head"}):
        raise LoadError(
            f"modules_to_not_convert names {unknown[0]!r}; all linears of a layer must be ternary"
        )
    if (linear, mode) == ("autobitlinear", "online"):
        return Quantization(Storage.MASTER)
    if mode != "offline" or linear not in ("bitlinear", "autobitlinear"):
        raise LoadError(f"bitnet linear_class {linear!r} in quantization_mode {mode!r} is not supported")
    return Quantization(Storage.PACKED_ROWS, has_inverse_scales=linear == "bitlinear")


def _kv_heads(config: Mapping[str, Any], family: Family, num_heads: int) -> int:
    if config.get("num_key_value_heads") is None and family.may_omit_kv_heads:
        return num_heads
    return required(config, "num_key_value_heads")
