"""Hugging Face folders: training checkpoints, `wrinklefree_packed` and packed `bitnet` exports.

A SubLN with the floor 2^k is computed by the decoder with the model's one eps: dividing its input by
2^k gives the same number to the bit (bitnet_arch.subln), and 2^-k goes into the scale of the linear that
makes the input, v or up. Stock `bitnet` folders have that in their weights already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wf_formats.decoder_config import DecoderConfig
from wf_formats.diffusion import read_settings
from wf_formats.errors import LoadError
from wf_formats.families import Family, family_of
from wf_formats.families.block import (
    BIASES,
    HF_EMBEDDING,
    HF_FINAL_NORM,
    HF_HEAD,
    OUTPUT_NORMS,
    PRODUCERS,
    SUB_NORMS,
    consumer,
    hf_name,
    part_shape,
)
from wf_formats.file_names import META_FILE
from wf_formats.json_file import read_json
from wf_formats.low_rank import LowRankPair
from wf_formats.matrix import INT4_BITS, NumpyMatrix, QuantizedMatrix, check_scales, check_stored_scales
from wf_formats.models.completeness import check_layers, check_tensors
from wf_formats.models.groups import quantize_rows, row_group
from wf_formats.models.hf_config import (
    Quantization,
    Storage,
    checked_floors,
    read_config,
    read_quantization,
)
from wf_formats.models.hf_tensors import check_stored, expected_tensors
from wf_formats.models.recognition import from_blocks, from_values
from wf_formats.models.source import MasterQuantizer
from wf_formats.packed_codes import unpack_inputs, unpack_nibbles, unpack_rows, unpack_words
from wf_formats.phases import PhaseMatrix, unpack_phases
from wf_formats.safetensors_file import SafetensorsFolder, open_folder
from wf_formats.schemes import LOW_RANK_FACTORS


@dataclass(frozen=True)
class HfModel:
    """A `ModelFile`."""

    folder: Path
    tensors: SafetensorsFolder
    config: DecoderConfig
    quantization: Quantization
    is_tied: bool
    folded: Mapping[str, int]
    """Floor exponents that the stored master weights have in them, by the name of the linear behind."""
    quantize_master: MasterQuantizer | None
    family: Family

    @property
    def has_master_weights(self) -> bool:
        return self.quantization.storage is Storage.MASTER

    def embedding(self) -> NumpyMatrix:
        return self._groups(HF_EMBEDDING)

    def head(self) -> NumpyMatrix | None:
        return None if self.is_tied else self._groups(HF_HEAD)

    def final_norm(self) -> np.ndarray:
        return self._gains(HF_FINAL_NORM)

    def matrix(self, layer: int, part: str) -> NumpyMatrix | PhaseMatrix:
        linear, rows, num_rows = self._place(layer, part)
        name, shape = f"{linear}.weight", (num_rows, part_shape(self.config, part)[1])
        matrix = self._matrix(name, shape, self._folded(layer, part))
        if rows.size < num_rows:
            assert not isinstance(matrix, PhaseMatrix), "refused when the folder was opened"
            matrix = matrix.take_rows(rows)
        self.tensors.release(self._stored(name))
        floor = self._floor(layer, part) + self._folded(layer, part)
        return matrix.times(2.0**-floor) if floor else matrix

    def correction(self, layer: int, part: str) -> LowRankPair | None:
        if not self.quantization.low_rank:
            return None
        linear, rows, _ = self._place(layer, part)
        up, down = (self.tensors.rows(f"{linear}.{factor}", slice(None)) for factor in LOW_RANK_FACTORS)
        return LowRankPair(up[rows], np.ascontiguousarray(down.T)).times(2.0 ** -self._floor(layer, part))

    def _place(self, layer: int, part: str) -> tuple[str, np.ndarray, int]:
        """The linear that holds a matrix, the matrix's rows in it, and how many it has."""
        stem, rows, num_rows = self.family.place(self.config, part)
        return f"model.layers.{layer}.{stem}", np.arange(rows.start, rows.stop), num_rows

    def vector(self, layer: int, part: str) -> np.ndarray | None:
        if part in OUTPUT_NORMS and part not in self.family.extras:
            return None
        name = hf_name(layer, part, self.quantization.has_sub_norms, self.family.renamed)
        if name not in self.tensors.shapes:
            return None
        if part in SUB_NORMS:
            return self.tensors.rows(name, slice(None))
        if part not in BIASES:
            return self._gains(name)
        vector, floor = self.tensors.rows(name, slice(None)), self._floor(layer, part.removesuffix("_bias"))
        return vector * np.float32(2.0**-floor) if floor else vector

    def _gains(self, name: str) -> np.ndarray:
        """Of a norm of the family's."""
        gains, offset = self.tensors.rows(name, slice(None)), self.family.norm_offset
        return gains + np.float32(offset) if offset else gains

    def _floor(self, layer: int, part: str) -> int:
        """Exponent that is still to go into a producer's scale."""
        return (self.quantization.log2_floors or {}).get(consumer(layer, part), 0)

    def _folded(self, layer: int, part: str) -> int:
        return self.folded.get(consumer(layer, part), 0)

    def _matrix(self, name: str, shape: tuple[int, int], folded: int) -> NumpyMatrix | PhaseMatrix:
        described = f"{self.folder}: {self._stored(name)} ({self.tensors.dtype(self._stored(name))})"
        match self.quantization.storage:
            case Storage.MASTER:
                return self._quantized(described, name, folded)
            case Storage.PACKED_INPUTS:
                return from_blocks(described, unpack_inputs(self.tensors.raw(name)), self._scales(name))
            case Storage.PACKED_WORDS if self.quantization.bits == INT4_BITS:
                return self._int4(name, shape[0])
            case Storage.PACKED_WORDS:
                codes = unpack_words(self.tensors.raw(self._stored(name)))
                return from_blocks(described, codes, self._scales(name))
            case Storage.PHASES:
                return self._phases(name)
            case Storage.PACKED_ROWS:
                scales = np.full((shape[0], 1), self._scales(name).reshape(()), np.float32)
                return from_blocks(described, unpack_rows(self.tensors.raw(name)), scales)
            case Storage.VALUES:
                return from_values(described, lambda part: self.tensors.rows(name, part), shape)

    def _phases(self, name: str) -> PhaseMatrix:
        scales = self._scales(name)
        planes = len(scales)
        return PhaseMatrix(unpack_phases(self.tensors.raw(name), planes), scales.reshape(planes, 2, 2))

    def _int4(self, name: str, num_rows: int) -> NumpyMatrix:
        """Codes of 4 bits; zero points lie in words along the rows."""
        codes, scales = unpack_nibbles(self.tensors.raw(self._stored(name))), self._scales(name)
        if not self.quantization.has_zeros:
            return QuantizedMatrix(codes, scales, INT4_BITS)
        zeros = unpack_nibbles(self.tensors.raw(f"{name}_zero_point").T).T[:num_rows]
        return QuantizedMatrix(codes, scales, INT4_BITS, -scales * zeros)

    def _stored(self, name: str) -> str:
        """The tensor with the codes (or values) of a matrix."""
        return f"{name}_packed" if self.quantization.storage is Storage.PACKED_WORDS else name

    def _quantized(self, described: str, name: str, folded: int) -> NumpyMatrix | PhaseMatrix:
        assert self.quantize_master is not None, "checked when the folder was opened"
        # Quantized as in memory, where the floor is not folded in: the clamp of the mean counts.
        weight = self.tensors.rows(name, slice(None)) * np.float32(2.0**folded)
        check_scales(f"{described}: values", weight)
        return self.quantize_master(weight, self.quantization.scheme)

    def _scales(self, name: str) -> np.ndarray:
        scales = self.tensors.rows(f"{name}_scale", slice(None))
        if self.quantization.has_inverse_scales:
            with np.errstate(divide="ignore"):
                scales = np.float32(1) / scales
        check_stored_scales(f"{self.folder}: {name}_scale", scales)
        return scales

    def _groups(self, name: str) -> NumpyMatrix:
        shape = (self.config.vocab_size, self.config.hidden_size)
        described = f"{self.folder}: {name} ({self.tensors.dtype(name)})"
        result = quantize_rows(described, lambda part: self.tensors.rows(name, part), shape)
        self.tensors.release(name)
        return result


def open_hf_model(folder: Path, quantize_master: MasterQuantizer | None = None) -> HfModel:
    """Checks configuration and tensors of a folder.

    Raises:
        LoadError: a file is missing or damaged, or something is not supported; names it.
    """
    settings = read_settings(folder)
    config, quantization = read_config(settings), read_quantization(settings)
    if quantization.storage is Storage.MASTER and quantize_master is None:
        raise LoadError(
            "the folder holds float master weights (a training checkpoint): pass "
            "quantize_master=bitnet_arch.master_quantizer.quantize_master, or export it first"
        )
    tensors = open_folder(folder)
    is_tied = _is_tied(settings, tensors)
    found = {name: shape for name, shape in tensors.shapes.items() if not _has_no_effect(name, is_tied)}
    check_layers(config, len(found))
    family = family_of(settings["model_type"])
    check_tensors(found, *expected_tensors(config, quantization, family, is_tied))
    check_stored(tensors, config, quantization, family)
    row_group(HF_EMBEDDING, config.hidden_size)
    folded = _folded_floors(folder, settings, quantization)
    for name in [*folded, *(quantization.log2_floors or {})]:
        if name not in {consumer(i, part) for i in range(config.num_layers) for part in PRODUCERS}:
            raise LoadError(f"sub_norm_log2_floor names {name!r}, which the model does not have")
    return HfModel(folder, tensors, config, quantization, is_tied, folded, quantize_master, family)


def _has_no_effect(name: str, is_tied: bool) -> bool:
    """Buffers that older checkpoints carry, and a tied head (compared with the embedding before)."""
    return name.endswith(".rotary_emb.inv_freq") or (name == HF_HEAD and is_tied)


def _is_tied(settings: Mapping[str, Any], tensors: SafetensorsFolder) -> bool:
    has_head, tied = HF_HEAD in tensors.shapes, settings.get("tie_word_embeddings")
    if tied is None:
        return not has_head
    if tied and has_head and HF_EMBEDDING in tensors.shapes:
        if not np.array_equal(tensors.raw(HF_HEAD), tensors.raw(HF_EMBEDDING)):
            raise LoadError(f"tie_word_embeddings is true, but {HF_HEAD} differs from {HF_EMBEDDING}")
        tensors.release(HF_HEAD)
        tensors.release(HF_EMBEDDING)
    return bool(tied)


def _folded_floors(folder: Path, settings: Mapping[str, Any], quantization: Quantization) -> dict[str, int]:
    """Floors that a stock bitnet training checkpoint has folded into its master weights."""
    path = folder / META_FILE
    if quantization.storage is not Storage.MASTER or settings["model_type"] != "bitnet":
        return {}
    conversion = read_json(path).get("conversion") if path.is_file() else None
    if conversion is None:
        return {}
    if not isinstance(conversion, dict):
        raise LoadError(f"{path}: conversion is {conversion!r:.60}, not an object")
    return checked_floors(conversion.get("sub_norm_log2_floor") or {})
