"""What a model family says of itself: everything in which it differs from the other Llama-like ones.

A family is one file of this package and one line of its registry. Conversion, checkpoint folders, both
exports with their proofs, and the native engine then know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wf_formats.decoder_config import Activation
from wf_formats.families.block import BIASES, SUB_NORMS


@dataclass(frozen=True)
class GgufArch:
    """An architecture of llama.cpp; families may share one."""

    name: str
    activation: Activation = "silu"
    """Where the file has no hidden_activation."""
    rotates_pairs: bool = False
    """Rotary positions turn neighbours (NORM); rows of q and k are reordered for that."""
    extras: tuple[str, ...] = ()
    """Parts beyond the common ones."""
    optional: tuple[str, ...] = ()
    """Parts that all layers have or none."""
    rope_types: tuple[str, ...] = ("default",)
    """Rotary scalings of a config.json that it can compute."""
    always_ties_head: bool = False
    """The output head is the embedding matrix, whatever the file holds."""


@dataclass(frozen=True)
class Family:
    """A `model_type` of transformers and its counterpart in llama.cpp."""

    model_type: str
    names: str
    """Models that people know, for messages."""
    archs: tuple[GgufArch, ...]
    """The first one is written, all are read."""
    extras: tuple[str, ...] = ()
    """Parts of a Hugging Face folder beyond the common ones."""
    optional: tuple[str, ...] = BIASES
    """Parts that all layers have or none."""
    can_be_converted: bool = True
    """Whether there are dense models of it to start from."""
    becomes_bitnet: bool = False
    """With SubLN and one scale per matrix it computes what transformers' `bitnet` does (heads permitting)."""
    may_omit_kv_heads: bool = False
    """An absent num_key_value_heads means as many as heads."""
    window_needs_switch: bool = True
    """sliding_window counts only where use_sliding_window or layer_types say so."""

    @property
    def arch(self) -> GgufArch:
        """The architecture that GGUF exports are written for."""
        return self.archs[0]

    @property
    def has_sub_norms(self) -> bool:
        """Whether its stock class has SubLN."""
        return set(SUB_NORMS) <= set(self.extras)

    def short_window(self, config: Mapping[str, Any]) -> str | None:
        """Why some layer does not see the whole context, in words; None if all do.

        Args:
            config: contents of a config.json.
        """
        window, context = config.get("sliding_window"), config.get("max_position_embeddings")
        types = config.get("layer_types") or []
        slides = bool(config.get("use_sliding_window")) or "sliding_attention" in types
        if not slides and (self.window_needs_switch or window is None):
            return None
        if type(window) is int and type(context) is int and window >= context:
            return None
        return f"sliding windows (of {window!r} tokens, context {context}) are not supported"
