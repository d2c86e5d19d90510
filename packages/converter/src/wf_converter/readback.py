"""Reads the quantized matrices of an export back and compares them with the checkpoint's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_converter.gguf_adapter import corrections
from wf_converter.gguf_arch import gguf_architecture, permute_rows
from wf_converter.gguf_plan import gguf_name
from wf_converter.hf_bitnet import LinearClass
from wf_formats.diffusion import read_settings
from wf_formats.families.block import gguf_scale_name
from wf_formats.gguf import GgufFile
from wf_formats.low_rank import LowRankPair
from wf_formats.matrix import INT4_BITS, TERNARY_BITS, NumpyMatrix, QuantizedMatrix
from wf_formats.models.gguf_adapter import GgufAdapter
from wf_formats.packed_codes import unpack_inputs, unpack_rows
from wf_formats.phases import PhaseMatrix
from wf_formats.safetensors_file import open_folder
from wf_formats.schemes import COMPRESSED_METHOD, PHASE_SCHEMES, PHASES_METHOD


@dataclass(frozen=True)
class WeightCheck:
    """Outcome of reading the quantized matrices back."""

    num_matrices: int
    num_wrong_codes: int
    max_scale_error: float
    """Largest relative error of a scale that matters (of a group with a non-zero code)."""
    worst: str
    """Name of the matrix with the largest error."""


class GgufWeights:
    """Quantized matrices of a GGUF file in the checkpoint's row order."""

    def __init__(self, file: GgufFile, checkpoint: ConvertedCheckpoint):
        self.file, self.checkpoint = file, checkpoint
        self.arch = gguf_architecture(checkpoint)

    def expected_order(self, name: str, matrix: NumpyMatrix) -> NumpyMatrix:
        parts = self.checkpoint.parts(name).items()

        def ordered(array: np.ndarray) -> np.ndarray:
            return np.concatenate(
                [permute_rows(self.arch, part, array[rows], self.checkpoint) for part, rows in parts]
            )

        return replace(
            matrix,
            codes=ordered(matrix.codes),
            scales=ordered(matrix.scales) if matrix.scales.ndim else matrix.scales,
            offsets=None if matrix.offsets is None else ordered(matrix.offsets),
        )

    def values(self, name: str) -> np.ndarray:
        return np.concatenate([self._part(part) for part in self.checkpoint.parts(name)])

    def _part(self, name: str) -> np.ndarray:
        target = gguf_name(name)
        scale_name = gguf_scale_name(target)
        values = self.file.values(target)
        if scale_name in self.file.tensors:
            values = values * self.file.values(scale_name)
        return values


class HfWeights:
    """Quantized matrices of an exported Hugging Face folder."""

    def __init__(self, folder: Path):
        self.quantization = read_settings(folder)["quantization_config"]
        self.paths = open_folder(folder).paths

    def expected_order(self, name: str, matrix: NumpyMatrix) -> NumpyMatrix:
        return matrix

    def values(self, name: str) -> np.ndarray:
        if self.quantization["quant_method"] == COMPRESSED_METHOD:
            return self._of_words(name)
        packed = self._tensor(name).numpy()
        scale = self._tensor(f"{name}_scale").float().numpy()
        if self.quantization["quant_method"] == PHASES_METHOD:
            return PhaseMatrix(_phases(packed, len(scale)), scale.reshape(-1, 2, 2)).values()
        if self.quantization["quant_method"] == "bitnet":
            inverse = self.quantization["linear_class"] == LinearClass.BITLINEAR
            return unpack_rows(packed).astype(np.float32) * (1 / scale if inverse else scale)
        return QuantizedMatrix(unpack_inputs(packed), scale).values()

    def _tensor(self, name: str) -> torch.Tensor:
        with safe_open(self.paths[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def _of_words(self, name: str) -> np.ndarray:
        """Bit by bit, apart from the packing that wrote them."""
        words = self._tensor(f"{name}_packed").numpy()
        scale = self._tensor(f"{name}_scale").float().numpy()
        (group,) = self.quantization["config_groups"].values()
        if group["weights"]["num_bits"] == INT4_BITS:
            return self._of_nibbles(name, words, scale)
        fields = [(words >> 2 * i & 3).astype(np.int8) - 2 for i in range(16)]
        return QuantizedMatrix(np.stack(fields, axis=-1).reshape(words.shape[0], -1), scale).values()

    def _of_nibbles(self, name: str, words: np.ndarray, scale: np.ndarray) -> np.ndarray:
        codes = _nibbles(words).reshape(len(words), -1)
        if f"{name}_zero_point" not in self.paths:
            return QuantizedMatrix(codes, scale, INT4_BITS).values()
        zeros = _nibbles(self._tensor(f"{name}_zero_point").numpy()).swapaxes(1, 2)  # [words, 8, groups]
        zeros = zeros.reshape(-1, scale.shape[1])[: len(codes)]
        return QuantizedMatrix(codes, scale, INT4_BITS, -scale * zeros).values()


def _phases(packed: np.ndarray, num_planes: int) -> np.ndarray:
    """Apart from the packing that wrote them: uint8 [2 planes n, m / 4] -> uint8 [planes, 2, n, m]."""
    bits = np.unpackbits(packed, axis=1, bitorder="little").reshape(num_planes, 2, -1, 4 * packed.shape[1], 2)
    return bits[..., 0] + 2 * bits[..., 1]


def _nibbles(words: np.ndarray) -> np.ndarray:
    """int32 [...] -> int8 [..., 8]."""
    return np.stack([(words >> 4 * i & 15).astype(np.int8) - 8 for i in range(8)], axis=-1)


def check_weights(checkpoint: ConvertedCheckpoint, export: GgufWeights | HfWeights) -> WeightCheck:
    """Reads all quantized matrices back and compares codes and scales with the checkpoint's."""
    names = [name for name in checkpoint.names if checkpoint.is_quantized(name)]
    num_wrong, worst_error, worst = 0, 0.0, ""
    for name in names:
        values = export.values(name)
        if checkpoint.scheme in PHASE_SCHEMES:
            wrong, error = _compare_phases(values, checkpoint.phases(name))
        else:
            expected = export.expected_order(name, checkpoint.matrix(name))
            wrong = int((_codes_of(values, expected) != expected.codes).sum())
            error = _scale_error(values, expected)
        num_wrong += wrong
        if wrong or error > worst_error or not worst:
            worst, worst_error = name, max(error, worst_error)
    return WeightCheck(len(names), num_wrong, worst_error, worst)


def _compare_phases(values: np.ndarray, expected: PhaseMatrix) -> tuple[int, float]:
    """Weights that are not the expected sums of phases, which are exact, and the largest relative error."""
    wanted = expected.values()
    wrong = values != wanted
    relative = np.abs(values[wrong] - wanted[wrong]) / np.abs(expected.scales).max()
    return int(wrong.sum()), float(relative.max(initial=0.0))


def wrong_corrections(checkpoint: ConvertedCheckpoint, adapter: GgufAdapter) -> list[str]:
    """GGUF names of matrices whose low-rank correction in the adapter is not the checkpoint's, to the bit."""
    wrong = []
    for correction in corrections(checkpoint, gguf_architecture(checkpoint)):
        expected, found = correction.pair(), adapter.pair(correction.matrix)
        if found is None or not _is_equal(expected, found):
            wrong.append(correction.matrix)
    return wrong


def _is_equal(left: LowRankPair, right: LowRankPair) -> bool:
    return np.array_equal(left.up, right.up) and np.array_equal(left.down, right.down)


def _codes_of(values: np.ndarray, expected: NumpyMatrix) -> np.ndarray:
    if expected.bits == TERNARY_BITS:
        return np.sign(values)
    scales = _of_weights(expected.scales, values)
    if expected.offsets is not None:
        values = values - _of_weights(expected.offsets, values)
    return np.rint(values / scales)


def _scale_error(values: np.ndarray, expected: NumpyMatrix) -> float:
    if expected.bits != TERNARY_BITS:  # of a weight, over what it should be
        wanted = expected.values()
        used = wanted != 0
        relative = np.abs(values[used] / wanted[used] - 1)
        return float(relative.max(initial=0.0))
    used = expected.codes != 0
    relative = np.abs(np.abs(values) / _of_weights(expected.scales, values) - 1)
    return float(relative[used].max(initial=0.0))


def _of_weights(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of groups [out, in / group] -> of each weight; of the whole matrix as they are."""
    numbers = np.asarray(numbers)
    return np.repeat(numbers, values.shape[1] // numbers.shape[1], axis=1) if numbers.ndim else numbers
