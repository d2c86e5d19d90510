"""Bytes of an optimizer's state."""

from __future__ import annotations

import math
from collections.abc import Mapping

from wf_formats.kernel_sizes import MOMENT_BLOCK
from wrinklefree.config.optimizer import (
    COMPACT_LEAST_WEIGHTS,
    AdamW8bitConfig,
    AdamWConfig,
    MomentKind,
    MuonConfig,
    OptimizerConfig,
)
from wrinklefree.planning.shapes import FLOAT, ModelShape, Shape, count, sizes

_BNB_BLOCK = 256
"""Weights that share a scale, of bitsandbytes' 8-bit moments."""
_BNB_TABLES = 2 * 256 * FLOAT
"""Values of the codes of both moments there, which all tensors share."""


def moments(model: ModelShape, optimizer: OptimizerConfig) -> int:
    """State of the optimizer. PyTorch's AdamW: two float32 a weight and a counter a tensor; ours and
    bitsandbytes' with fewer bits count in Python. Muon: one float32 a weight of the matrices."""
    if isinstance(optimizer, MuonConfig):
        others = {**model.embeddings, **model.vectors}
        return FLOAT * count(model.matrices) + _adamw(others)
    if isinstance(optimizer, AdamW8bitConfig):
        # Embeddings keep 32 bits; a head of its own does not.
        rounded = {n: s for n, s in model.shapes.items() if not n.startswith("model.embed_tokens")}
        return _BNB_TABLES + sum(
            _bnb(size) if name in rounded and size >= optimizer.min_8bit_size else 2 * FLOAT * size
            for name, size in sizes(model.shapes)
        )
    if isinstance(optimizer, AdamWConfig) and optimizer.state is not MomentKind.float32:
        return sum(_compact(size, optimizer.state) for _, size in sizes(model.shapes))
    return _adamw(model.shapes)


def _adamw(shapes: Mapping[str, Shape]) -> int:
    return 2 * FLOAT * count(shapes) + FLOAT * len(shapes)


def _bnb(size: int) -> int:
    """Two bytes a weight, and two float32 a block of 256."""
    return 2 * size + 2 * FLOAT * math.ceil(size / _BNB_BLOCK)


def _compact(size: int, kind: MomentKind) -> int:
    if size < COMPACT_LEAST_WEIGHTS:
        return 2 * FLOAT * size
    if kind is MomentKind.bf16:
        return 2 * 2 * size
    return 2 * (size + math.ceil(size / MOMENT_BLOCK))
