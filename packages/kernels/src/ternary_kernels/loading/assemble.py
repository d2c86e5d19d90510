"""Source -> packed model, tensor by tensor: memory for the packed model and one unpacked matrix."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ternary_kernels._native import Matrix
from ternary_kernels.config import DecoderConfig
from ternary_kernels.loading.errors import LoadError
from ternary_kernels.loading.parts import MATRICES, VECTORS
from ternary_kernels.loading.tensors import GroupTensor, TernaryTensor, check_scales
from ternary_kernels.packing import pack_groups, pack_ternary
from ternary_kernels.weights import LayerWeights, ModelWeights


class ModelSource(Protocol):
    """A model in some file format, checked for completeness when it was opened.

    Every call decodes afresh and lets go of the file's pages.
    """

    @property
    def config(self) -> DecoderConfig: ...
    def embedding(self) -> GroupTensor:
        """[vocab, hidden]"""

    def head(self) -> GroupTensor | None:
        """[vocab, hidden]; None: the embedding matrix."""

    def final_norm(self) -> np.ndarray:
        """fp32 [hidden]"""

    def matrix(self, layer: int, part: str) -> TernaryTensor:
        """[out, in] of one of MATRICES, rows in half-split rotary order."""

    def vector(self, layer: int, part: str) -> np.ndarray | None:
        """fp32 of one of VECTORS; None: the model has none."""


def assemble(source: ModelSource) -> ModelWeights:
    """Decodes and packs a whole model, the largest matrices first.

    Raises:
        LoadError: a matrix is not ternary or a value is not finite.
    """
    embedding, head = _packed_groups(source.embedding()), source.head()
    return ModelWeights(
        config=source.config,
        embedding=embedding,
        head=None if head is None else _packed_groups(head),
        final_norm=_finite("final norm", source.final_norm()),
        layers=[_layer(source, index) for index in range(source.config.num_layers)],
    )


def _layer(source: ModelSource, index: int) -> LayerWeights:
    matrices = {part: _packed_ternary(source.matrix(index, part)) for part in MATRICES}
    vectors = {part: source.vector(index, part) for part in VECTORS}
    for part, vector in vectors.items():
        if vector is not None:
            _finite(f"{part} of layer {index}", vector)
    return LayerWeights(**matrices, **vectors)  # type: ignore[arg-type]  # norms are never None


def _packed_ternary(tensor: TernaryTensor) -> Matrix:
    return pack_ternary(tensor.codes, tensor.scales)


def _packed_groups(tensor: GroupTensor) -> Matrix:
    return pack_groups(tensor.codes, tensor.scales, tensor.bits)


def _finite(what: str, vector: np.ndarray) -> np.ndarray:
    try:
        check_scales(what, vector)
    except LoadError as error:
        raise LoadError(f"{what}: not all values are finite; the file is damaged") from error
    return vector
