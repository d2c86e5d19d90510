"""GGUF files of the architectures in wf_formats.families.

Where an architecture turns neighbouring elements, its exporters reorder the rows of q and k for that
(row 2 j + i of a head is row i head_dim / 2 + j of the original), which is undone here. A `<name>.scale`
tensor multiplies its matrix; all matrices have one or none. Every hyperparameter key of the architecture is
either used, known to change nothing, or refused.

Sources: llama.cpp's tables of keys, tensors and rope types; bitnet.cpp's `build_bitnet_158`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wf_formats.decoder_config import DecoderConfig
from wf_formats.errors import LoadError
from wf_formats.families import GgufArch, arch_of
from wf_formats.families.block import (
    GGUF_EMBEDDING,
    GGUF_FINAL_NORM,
    GGUF_HEAD,
    GGUF_ROPE_FREQS,
    MATRICES,
    NO_SINK,
    NORMS,
    gguf_name,
    gguf_scale_name,
    gguf_sinks_name,
    part_shape,
)
from wf_formats.gguf import GgufFile, TensorType
from wf_formats.gguf.blocks import (
    FLOAT_TYPES,
    READABLE_TYPES,
    codes_and_scales,
    floats,
    offsets_of,
    values,
)
from wf_formats.gguf.codecs import SCALE_GROUPS
from wf_formats.low_rank import LowRankPair
from wf_formats.matrix import NumpyMatrix, QuantizedMatrix, check_scales
from wf_formats.models.completeness import Shapes, check_layers, check_tensors
from wf_formats.models.gguf_adapter import (
    AdapterError,
    GgufAdapter,
    check_adapter_given,
    is_adapter,
    open_adapter,
)
from wf_formats.models.gguf_config import read_config
from wf_formats.models.gguf_kinds import check_kinds
from wf_formats.models.gguf_seal import check_seal
from wf_formats.models.groups import quantize_rows
from wf_formats.models.recognition import (
    LEAST_TERNARY_GROUP,
    are_ternary,
    from_blocks,
    from_values,
    if_ternary,
)

_EXACT_BITS: dict[TensorType, int] = {
    TensorType.Q8_0: 8,
    TensorType.Q4_0: 4,
    TensorType.Q5_0: 6,
    TensorType.Q6_K: 6,
}
"""Of codes whose types are kept as they are in embeddings and heads."""
_WITH_OFFSETS: dict[TensorType, int] = {
    TensorType.Q4_1: 4,
    TensorType.Q4_K: 4,
    TensorType.Q5_1: 6,
    TensorType.Q5_K: 6,
}
_LAYER_BITS = _EXACT_BITS | _WITH_OFFSETS
"""Of layers' matrices that are not ternary."""
LAYER_TYPES = frozenset(_LAYER_BITS)
"""Types of layers' matrices that are taken whatever their values are."""


@dataclass(frozen=True)
class GgufModel:
    """A `ModelFile`."""

    file: GgufFile
    config: DecoderConfig
    arch: GgufArch
    adapter: GgufAdapter | None = None
    """The corrections of its matrices."""

    @property
    def has_master_weights(self) -> bool:
        return False

    def embedding(self) -> NumpyMatrix:
        return self._groups(GGUF_EMBEDDING)

    def head(self) -> NumpyMatrix | None:
        return self._groups(GGUF_HEAD) if GGUF_HEAD in self.file.tensors else None

    def final_norm(self) -> np.ndarray:
        return self._vector(GGUF_FINAL_NORM)

    def matrix(self, layer: int, part: str) -> NumpyMatrix:
        name = gguf_name(layer, part)
        matrix = _reordered(self._matrix(name), self._row_order(part))
        self.file.release(name)
        return matrix

    def correction(self, layer: int, part: str) -> LowRankPair | None:
        pair = None if self.adapter is None else self.adapter.pair(gguf_name(layer, part))
        order = self._row_order(part)
        return pair if pair is None or order is None else pair.take_rows(order)

    def vector(self, layer: int, part: str) -> np.ndarray | None:
        name = gguf_name(layer, part)
        if name not in self.file.tensors:
            return None
        vector, order = self._vector(name), self._row_order(part.removesuffix("_bias"))
        return vector if order is None or not part.endswith("_bias") else vector[order]

    def _vector(self, name: str) -> np.ndarray:
        if self.file.tensor(name).type not in FLOAT_TYPES:
            raise LoadError(
                f"{name} is {self.file.tensor(name).type_name}; norms and biases are kept as floats"
            )
        return self.file.values(name).copy()

    def _matrix(self, name: str) -> NumpyMatrix:
        tensor, scale_name = self.file.tensor(name), gguf_scale_name(name)
        factor = 1.0
        if scale_name in self.file.tensors:
            factor = float(self.file.values(scale_name).reshape(()))
        rows, columns = tensor.shape

        def values_of(part: slice) -> np.ndarray:
            return self._rows(name, part)

        bits = _LAYER_BITS.get(tensor.type)
        if tensor.type in SCALE_GROUPS and tensor.type not in _WITH_OFFSETS:
            codes, scales = self._codes(name)
            if not bits or are_ternary(codes, scales, self._least_group(name)):
                return from_blocks(_described(self.file, name), codes, scales, factor)
            matrix = self._exact(name, bits, codes, scales)
        elif bits:
            ternary = if_ternary(values_of, (rows, columns))
            matrix = ternary or self._exact(name, bits, *self._codes(name))
        else:
            matrix = from_values(_described(self.file, name), values_of, (rows, columns))
        check_scales(scale_name, np.asarray(factor))
        return matrix.times(factor)

    def _least_group(self, name: str) -> int:
        """Weights that have to share a magnitude where the matrix is to count as ternary."""
        return max(SCALE_GROUPS[self.file.tensor(name).type], LEAST_TERNARY_GROUP)

    def _codes(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        tensor = self.file.tensor(name)
        return codes_and_scales(self.file.data(name), tensor.type, tensor.shape[1])

    def _exact(self, name: str, bits: int, codes: np.ndarray, scales: np.ndarray) -> NumpyMatrix:
        """Codes, scales and offsets as the file has them."""
        tensor = self.file.tensor(name)
        offsets = offsets_of(self.file.data(name), tensor.type, tensor.shape[1])
        for numbers in (scales, offsets):
            if numbers is not None:
                check_scales(_described(self.file, name), numbers)
        return QuantizedMatrix(codes, scales, bits, offsets)

    def _groups(self, name: str) -> NumpyMatrix:
        tensor = self.file.tensor(name)
        rows, columns = tensor.shape
        if tensor.type in _EXACT_BITS:
            result = self._exact(name, _EXACT_BITS[tensor.type], *self._codes(name))
        else:
            result = quantize_rows(
                _described(self.file, name), lambda part: self._rows(name, part), (rows, columns)
            )
        self.file.release(name)
        return result

    def _rows(self, name: str, part: slice) -> np.ndarray:
        """fp32 values of a slice of a matrix's rows."""
        tensor = self.file.tensor(name)
        rows = self.file.data(name).reshape(tensor.shape[0], -1)[part]
        if tensor.type in FLOAT_TYPES:
            return floats(rows.reshape(-1), tensor.type).reshape(rows.shape[0], -1)
        return values(rows.reshape(-1), tensor.type, (rows.shape[0], tensor.shape[1]))

    def _row_order(self, part: str) -> np.ndarray | None:
        """Rows of the file in half-split order, where they are not already."""
        if not self.arch.rotates_pairs or part not in ("q", "k"):
            return None
        num_heads = self.config.num_heads if part == "q" else self.config.num_kv_heads
        rows = np.arange(num_heads * self.config.head_dim)
        return rows.reshape(num_heads, -1, 2).swapaxes(1, 2).reshape(-1)


def open_gguf_model(file: GgufFile, adapter: Path | None = None) -> GgufModel:
    """Checks keys and tensor table of a file, and of the adapter with its corrections.

    Raises:
        LoadError: the architecture, a setting or a tensor is not supported; names it.
        AdapterError: the adapter is not the model's, or is missing.
        GgufError, OSError: of the adapter.
    """
    if is_adapter(file):
        raise AdapterError(
            "it holds an adapter, no model: give the model's file, and this one with --adapter"
        )
    arch = arch_of(file.keys.get("general.architecture"))
    divisors = file.values(GGUF_ROPE_FREQS) if GGUF_ROPE_FREQS in file.tensors else None
    embedding = file.tensors.get(GGUF_EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise LoadError(f"tensor {GGUF_EMBEDDING} is missing or no matrix")
    check_kinds(file, arch.name)
    config = read_config(file.keys, arch, embedding.shape[0], divisors)
    check_layers(config, len(file.tensors))
    found = {name: tensor.shape for name, tensor in file.tensors.items()}
    check_tensors(found, *_expected(config, arch))
    if arch.has_sinks:
        _check_sinks(file, config)
    for name in found:
        _check_type(file, name)
    check_seal(file)
    if adapter is None:
        check_adapter_given(file)
        return GgufModel(file, config, arch)
    matrices = {
        gguf_name(i, part): part_shape(config, part) for i in range(config.num_layers) for part in MATRICES
    }
    return GgufModel(file, config, arch, open_adapter(adapter, file, matrices))


def _expected(config: DecoderConfig, arch: GgufArch) -> tuple[Shapes, list[Shapes]]:
    layers = range(config.num_layers)

    def shapes(parts: tuple[str, ...]) -> Shapes:
        return {gguf_name(i, part): part_shape(config, part) for i in layers for part in parts}

    matrix = (config.vocab_size, config.hidden_size)
    required = {GGUF_EMBEDDING: matrix, GGUF_FINAL_NORM: (config.hidden_size,)}
    required |= shapes((*MATRICES, *NORMS, *arch.extras))
    optional: list[Shapes] = [
        {gguf_scale_name(gguf_name(i, part)): (1,) for i in layers for part in MATRICES},
        {GGUF_HEAD: matrix},
        *map(shapes, arch.optional),
    ]
    if arch.has_rope_freqs:
        optional.append({GGUF_ROPE_FREQS: (config.head_dim // 2,)})
    if arch.has_sinks:
        required |= {gguf_sinks_name(i): (config.num_heads,) for i in layers}
    return required, optional


def _check_sinks(file: GgufFile, config: DecoderConfig) -> None:
    for layer in range(config.num_layers):
        name = gguf_sinks_name(layer)
        if not (file.values(name) <= NO_SINK / 2).all():
            raise LoadError(f"{name}: attention sinks that weigh something are not supported")


def _described(file: GgufFile, name: str) -> str:
    return f"{file.path}: {name} ({file.tensor(name).type_name})"


def _check_type(file: GgufFile, name: str) -> None:
    tensor = file.tensor(name)
    if tensor.type not in READABLE_TYPES:
        raise LoadError(
            f"{_described(file, name)}: this type is not read here; types are {_known()}: let "
            "llama.cpp's llama-quantize make one of these of the original"
        )
    if tensor.type is TensorType.I2_S and name == GGUF_EMBEDDING:
        raise LoadError(f"{_described(file, name)}: embeddings of this type are not supported")
    if name.endswith(".scale") and tensor.type is not TensorType.F32:
        raise LoadError(f"{_described(file, name)}: scales of matrices are kept as f32")


def _known() -> str:
    return ", ".join(kind.label for kind in READABLE_TYPES)


def _reordered(matrix: NumpyMatrix, order: np.ndarray | None) -> NumpyMatrix:
    return matrix if order is None else matrix.take_rows(order)
