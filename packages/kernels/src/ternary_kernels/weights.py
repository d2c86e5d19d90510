"""The tensors of a decoder, packed: what `load_model` makes and `Decoder` takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ternary_kernels._native import LowRank, Matrix, Screen
from wf_formats.decoder_config import DecoderConfig


@dataclass
class LayerWeights:
    """One decoder layer. Vectors are fp32; None: the model has none."""

    input_norm: np.ndarray
    """[hidden]"""
    post_attention_norm: np.ndarray
    """[hidden], before the feed-forward part."""
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    q_bias: np.ndarray | None = None
    k_bias: np.ndarray | None = None
    v_bias: np.ndarray | None = None
    o_bias: np.ndarray | None = None
    gate_bias: np.ndarray | None = None
    up_bias: np.ndarray | None = None
    down_bias: np.ndarray | None = None
    q_norm: np.ndarray | None = None
    """[head_dim], per head before the rotation."""
    k_norm: np.ndarray | None = None
    attn_sub_norm: np.ndarray | None = None
    """[num_heads * head_dim], before o."""
    ffn_sub_norm: np.ndarray | None = None
    """[intermediate], before down."""
    attn_output_norm: np.ndarray | None = None
    """[hidden], of what attention adds."""
    ffn_output_norm: np.ndarray | None = None
    """[hidden], of what the feed-forward part adds."""
    q_correction: LowRank | None = None
    """Low-rank, of the matrix's input before it becomes int8."""
    k_correction: LowRank | None = None
    v_correction: LowRank | None = None
    o_correction: LowRank | None = None
    gate_correction: LowRank | None = None
    up_correction: LowRank | None = None
    down_correction: LowRank | None = None


@dataclass
class ModelWeights:
    """A whole model."""

    config: DecoderConfig
    embedding: Matrix
    head: Matrix | None
    """None: the embedding matrix."""
    final_norm: np.ndarray
    layers: list[LayerWeights]
    screen: Screen | None = None
    """Of the head, for steps that need the largest logits alone; None: the head computes them all."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all matrices, vectors and corrections, and of the screen."""
        return sum(_num_bytes(part) for part in self._parts())

    def _parts(self) -> Iterator[Any]:
        yield from (self.embedding, self.head, self.screen, self.final_norm)
        for layer in self.layers:
            yield from (getattr(layer, field.name) for field in fields(layer))


def _num_bytes(part: Any) -> int:
    if part is None:
        return 0
    return int(part.nbytes if isinstance(part, np.ndarray) else part.num_bytes)
