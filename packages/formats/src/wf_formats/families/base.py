"""What a model family says of itself: everything in which it differs from the other Llama-like ones.

A family is one file of this package and one line of its registry. Conversion, checkpoint folders, both
exports with their proofs, and the native engine then know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from wf_formats.decoder_config import Activation, DecoderConfig
from wf_formats.diffusion import GGUF_PREFIX
from wf_formats.families.block import (
    ATTENTION_BIASES,
    HF_STEMS,
    MATRICES,
    MLP_BIASES,
    SUB_NORMS,
    part_shape,
)

FULL, SLIDING = "full_attention", "sliding_attention"
"""transformers' names for layers that see everything before a token, and those with a window."""
Groups = tuple[tuple[str, ...], ...]


class Shape(NamedTuple):
    """What constants of an architecture may depend on."""

    num_layers: int
    hidden_size: int
    num_heads: int
    head_dim: int


class Place(NamedTuple):
    """Where a matrix of a block is: the linear, by its name in the block, and the rows there."""

    linear: str
    rows: slice
    num_rows: int
    """Of the whole linear."""


def _per_head(shape: Shape) -> float:
    return shape.head_dim**-0.5


@dataclass(frozen=True)
class GgufArch:
    """An architecture of llama.cpp, or of block diffusion on one of them; families may share one."""

    name: str
    activation: Activation = "silu"
    """Where the file has no hidden_activation."""
    rotates_pairs: bool = False
    """Rotary positions turn neighbours (NORM); rows of q and k are reordered for that."""
    extras: tuple[str, ...] = ()
    """Parts beyond the common ones."""
    optional: Groups = ()
    """Groups of parts that all layers have or none."""
    rope_kinds: tuple[str, ...] = ("default", "dynamic", "linear", "yarn")
    """Rotary scalings of a config.json that its keys can say."""
    has_rope_freqs: bool = False
    """It reads divisors of the rotary frequencies (`rope_freqs`), so that any fixed scaling can be told."""
    nope_step: int = 0
    """Every n-th layer has no rotary positions, whatever the file says; 0: every layer has them."""
    windows: Literal["none", "period", "layers"] = "none"
    """Which layers have a window: none; all but every n-th; a list of the file."""
    window_period: int = 0
    """n of "period" where the file does not say it."""
    tells_rope_layers: bool = False
    """A list of the file says which layers have rotary positions."""
    has_local_rope: bool = False
    """Layers with a window have a rotary base of their own and no scaling."""
    has_matrix_scales: bool = False
    """It multiplies matrices by their `.scale` tensors; others load and ignore them."""
    has_sinks: bool = False
    """Heads have attention sinks, written so that they weigh nothing."""
    always_ties_head: bool = False
    """The output head is the embedding matrix, whatever the file holds."""
    scales_embedding: bool = False
    """Embeddings are multiplied by sqrt(hidden size)."""
    attention_scale: Callable[[Shape], float] = _per_head
    in_bitnetcpp: bool = False
    """bitnet.cpp's own llama.cpp computes it with matrices of I2_S, of rows as here."""
    in_llamacpp: bool = True
    """False: the name of a fork, which is read and not written."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Keys that it wants and that must have these values here."""

    @property
    def is_diffusion(self) -> bool:
        """Whether its models are block-diffusion models, which llama.cpp refuses by the name."""
        return self.name.startswith(GGUF_PREFIX)


@dataclass(frozen=True)
class Family:
    """A `model_type` of transformers and its counterparts in llama.cpp."""

    model_type: str
    names: str
    """Models that people know, for messages."""
    archs: tuple[GgufArch, ...]
    """The first one that can hold a model is written, all are read."""
    extras: tuple[str, ...] = ()
    """Parts of a Hugging Face folder beyond the common ones."""
    optional: Groups = (ATTENTION_BIASES, MLP_BIASES)
    """Groups of parts that all layers have or none."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stem of a linear in Hugging Face names -> the matrices whose rows it holds, one after another. Rows are
    quantized each for itself, or all with one scale, so the parts come out of it exactly."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Stems of Hugging Face names that differ from block.HF_STEMS."""
    activation_key: str = "hidden_act"
    can_be_converted: bool = True
    """Whether there are dense models of it to start from."""
    becomes_bitnet: bool = False
    """With SubLN and one scale per matrix it computes what transformers' `bitnet` does (heads permitting)."""
    may_omit_kv_heads: bool = False
    """An absent num_key_value_heads means as many as heads."""
    rotates_part: bool = False
    """partial_rotary_factor is one of its settings."""
    norm_offset: float = 0.0
    """Gains of its norms are stored less this number (SubLN apart)."""
    scales_embedding: bool = False
    """Embeddings are multiplied by sqrt(hidden size)."""
    attention_scale_key: str | None = None
    """Setting whose inverse root multiplies queries times keys; None: the size of a head."""
    layer_types: Callable[[Mapping[str, Any], int], list[str]] | None = None
    """FULL or SLIDING of each layer, out of a config and the number of layers; None: no windows."""
    is_rotated: Callable[[Mapping[str, Any], int], bool] = lambda config, layer: True
    """Whether a layer has rotary positions."""

    @property
    def linears(self) -> tuple[str, ...]:
        """Hugging Face names of a block's linears, inside the block."""
        return tuple(self.held)

    @property
    def held(self) -> dict[str, tuple[str, ...]]:
        """The matrices (block.MATRICES) that each linear of a block holds."""
        holder = {part: stem for stem, parts in self.fused.items() for part in parts}
        stems = dict.fromkeys(holder.get(part, HF_STEMS[part]) for part in MATRICES)
        plain = {HF_STEMS[part]: (part,) for part in MATRICES}
        return {stem: self.fused.get(stem) or plain[stem] for stem in stems}

    def place(self, config: DecoderConfig, part: str) -> Place:
        """Where one of block.MATRICES is."""
        stem, parts = next(item for item in self.held.items() if part in item[1])
        sizes = [part_shape(config, its)[0] for its in parts]
        start = sum(sizes[: parts.index(part)])
        return Place(stem, slice(start, start + part_shape(config, part)[0]), sum(sizes))

    @property
    def has_sub_norms(self) -> bool:
        """Whether its stock class has SubLN."""
        return set(SUB_NORMS) <= set(self.extras)


def named_layer_types(config: Mapping[str, Any], num_layers: int) -> list[str]:
    """The config's layer_types; all FULL where it has none."""
    return list(config.get("layer_types") or [FULL] * num_layers)
