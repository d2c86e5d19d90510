"""Model file -> packed model, tensor by tensor: memory for the packed model and one unpacked matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ternary_kernels._native import LowRank, Matrix
from ternary_kernels.format_race import choose_format
from ternary_kernels.memory import trim_heap
from ternary_kernels.packing import PackedTernary, TernaryFormat, pack_groups, pack_phases, pack_ternary
from ternary_kernels.weights import LayerWeights, ModelWeights
from wf_formats.errors import LoadError
from wf_formats.families.block import MATRICES, VECTORS
from wf_formats.matrix import TERNARY_BITS, NumpyMatrix, check_scales
from wf_formats.models import MasterQuantizer, ModelFile, open_model
from wf_formats.phases import PhaseMatrix

INPUT_GROUP = 32
"""Inputs that share a scale in layers that are not ternary, as in llama.cpp: half the error of 64."""


def assemble(source: ModelFile, format: PackedTernary) -> ModelWeights:
    """Decodes and packs a whole model, the largest matrices first; ternary ones in a format.

    Raises:
        LoadError: a value is not finite, or a matrix is neither ternary nor complex nor kept in codes of 4
            to 8 bits.
    """
    embedding, head = _packed_groups(source.embedding()), source.head()
    return ModelWeights(
        config=source.config,
        embedding=embedding,
        head=None if head is None else _packed_groups(head),
        final_norm=_finite("final norm", source.final_norm()),
        layers=[_layer(source, index, format) for index in range(source.config.num_layers)],
    )


def _layer(source: ModelFile, index: int, format: PackedTernary) -> LayerWeights:
    matrices = {part: _packed(source.matrix(index, part), format) for part in MATRICES}
    vectors = {part: source.vector(index, part) for part in VECTORS}
    for part, vector in vectors.items():
        if vector is not None:
            _finite(f"{part} of layer {index}", vector)
    corrections = {f"{part}_correction": _correction(source, index, part) for part in MATRICES}
    return LayerWeights(**matrices, **vectors, **corrections)  # type: ignore[arg-type]  # norms are never None


def _correction(source: ModelFile, index: int, part: str) -> LowRank | None:
    pair = source.correction(index, part)
    if pair is None:
        return None
    for factor in (pair.up, pair.down):
        _finite(f"correction of {part} of layer {index}", factor)
    return LowRank(np.ascontiguousarray(pair.up), np.ascontiguousarray(pair.down))


def _packed(tensor: NumpyMatrix | PhaseMatrix, format: PackedTernary) -> Matrix:
    if isinstance(tensor, PhaseMatrix):
        return pack_phases(tensor.phases, tensor.scales)
    if tensor.bits != TERNARY_BITS:
        return _packed_groups(_in_input_groups(tensor))
    return pack_ternary(tensor.codes, tensor.scales, format)


def _in_input_groups(tensor: NumpyMatrix) -> NumpyMatrix:
    """Groups of 64 and 128 as several of INPUT_GROUP with one scale: inputs are rounded by the groups of the
    matrix. Costs 0.25 and 0.38 bits a weight, twice that with offsets."""
    group = tensor.group_size
    if group is None or tensor.scales.ndim < 2 or group % INPUT_GROUP:
        return tensor
    times, offsets = group // INPUT_GROUP, tensor.offsets
    return replace(
        tensor,
        scales=np.repeat(tensor.scales, times, axis=1),
        offsets=None if offsets is None else np.repeat(offsets, times, axis=1),
    )


def _packed_groups(tensor: NumpyMatrix) -> Matrix:
    return pack_groups(tensor.codes, tensor.scales, tensor.bits, offsets=tensor.offsets)


def _finite(what: str, vector: np.ndarray) -> np.ndarray:
    try:
        check_scales(what, vector)
    except LoadError as error:
        raise LoadError(f"{what}: not all values are finite; the file is damaged") from error
    return vector


def load_model(
    path: Path | str,
    quantize_master: MasterQuantizer | None = None,
    adapter: Path | None = None,
    format: TernaryFormat = "auto",
) -> ModelWeights:
    """Loads a model for `Decoder`.

    Args:
        path: a GGUF file or a Hugging Face folder.
        quantize_master: for training checkpoints (`wf_formats.models.open_model`).
        adapter: GGUF file of low-rank corrections beside a GGUF model.
        format: of the ternary matrices; `auto` finds the faster one here (`format_race`).

    Memory: the packed model, and one unpacked matrix while loading. Time: 3 ns of a core a weight
    (7 s for 2.4 billion weights).

    Raises:
        LoadError, GgufError, OSError: as `wf_formats.models.open_model`; or as `assemble`.
    """
    source = open_model(path, quantize_master, adapter)
    weights = assemble(source, choose_format(source) if format == "auto" else format)
    trim_heap()
    return weights
