"""Ternary linears inside other servers (vLLM, SGLang): tensors as a folder stores them -> a packed layer.

Those servers join q, k, v and gate, up into one linear and hand its parts over one tensor at a time. A
`ServedLinear` collects them and packs the joined matrix once all are there:

    stored = ServedLinear(name, quantization, in_features, [rows of q, of k, of v])
    stored.expect_on(layer)      # parameters whose `weight_loader` the servers' loaders call for each tensor
    stored.pack_into(layer)      # then layer.ternary(x) computes, where the parameters were

On a CPU that is a `torch_ops.PackedLinear`, with the kernels of the native decoder; on a GPU a
`gpu.linear.GpuLinear`, with kernels in Triton.

A part comes as it lies in the folder, so every order of codes will do, blocks of rows too, which could not
be cut or joined while they are packed. One scale for a part becomes one for each of its rows.

Rounding is that of training: x is int8 with max|x| / 127 for each token. A matrix cut along its inputs
(tensor parallelism) would round each piece by a maximum of its own, so only whole matrices are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ternary_kernels.torch_ops import PackedLinear
from wf_formats.errors import LoadError
from wf_formats.matrix import INT4_BITS, QuantizedMatrix, check_stored_scales
from wf_formats.models.hf_config import Quantization, Storage, read_packed_quantization
from wf_formats.models.recognition import from_blocks
from wf_formats.packed_codes import (
    CODES_PER_BYTE,
    CODES_PER_WORD,
    unpack_inputs,
    unpack_rows,
    unpack_words,
)

_CPU = torch.device("cpu")
_PARTS = {"q": 0, "k": 1, "v": 2}
_TENSORS: dict[Storage, dict[str, torch.dtype]] = {
    Storage.PACKED_WORDS: {
        "weight_packed": torch.int32,
        "weight_scale": torch.float32,
        "weight_shape": torch.int64,
    },
    Storage.PACKED_INPUTS: {"weight": torch.uint8, "weight_scale": torch.float32},
    Storage.PACKED_ROWS: {"weight": torch.uint8, "weight_scale": torch.float32},
}
"""Ends of names, that of the codes first. Scales may be floats of another kind."""


def served_quantization(settings: Mapping[str, Any]) -> Quantization:
    """How the ternary matrices of a folder are stored.

    Args:
        settings: quantization_config of its config.json.

    Raises:
        LoadError: an unknown method or option; weights of 4 bits, which are not ternary; or float master
            weights, which take training's quantizer.
    """
    quantization = read_packed_quantization({"quantization_config": settings})
    if quantization.bits == INT4_BITS:
        raise LoadError(
            "weights of 4 bits (W4A16) are not for our ternary kernels: let vLLM compute them by its own "
            "(no --quantization, --dtype float16)"
        )
    return quantization


def part_of(shard: str | int | None) -> int | None:
    """Index of a part by the servers' names: q, k, v, or a number; None: the whole matrix.

    Raises:
        LoadError: another name.
    """
    if shard is None or type(shard) is int:
        return shard
    if not isinstance(shard, str) or shard not in _PARTS:
        raise LoadError(f"a part of a joined linear is named {shard!r:.60}; known are q, k, v and numbers")
    return _PARTS[shard]


@dataclass
class ServedLinear:
    """What has been loaded of one linear; see the module."""

    name: str
    """For errors."""
    quantization: Quantization
    in_features: int
    part_rows: Sequence[int]
    """Rows of the parts that it joins, in their order; one where it joins none."""
    _loaded: dict[tuple[str, int | None], Tensor] = field(default_factory=dict, repr=False)

    @property
    def tensors(self) -> dict[str, torch.dtype]:
        """Ends of the names of its tensors in a folder, that of the codes first, and their dtypes."""
        return _TENSORS[self.quantization.storage]

    def expect_on(self, layer: nn.Module) -> None:
        """Gives a server's layer an empty parameter for each tensor. Its attribute `weight_loader`, called
        with (parameter, tensor) or (parameter, tensor, shard), is `load`; shards as in `part_of`.
        """
        for name, dtype in self.tensors.items():
            parameter = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
            parameter.weight_loader = partial(self._load_shard, name)  # type: ignore[attr-defined]
            layer.register_parameter(name, parameter)

    def pack_into(self, layer: nn.Module) -> None:
        """Puts the packed matrix in their place, as `layer.ternary`, on their device. Raises: as `packed`."""
        packed = self.packed(getattr(layer, self._codes_name).device)
        for name in self.tensors:
            delattr(layer, name)
        layer.ternary = packed

    def load(self, tensor_name: str, tensor: Tensor, part: int | None = None) -> None:
        """Takes one tensor of one part.

        Args:
            tensor_name: one of `tensors`.
            part: index into part_rows; None: all of them as one matrix.

        Raises:
            LoadError: shape or dtype is not that of the part, or it has been loaded before.
        """
        shown = f"{self.name}.{tensor_name}" + ("" if part is None else f", part {part}")
        if part is not None and not 0 <= part < len(self.part_rows):
            raise LoadError(f"{shown}: the linear has {len(self.part_rows)} parts")
        if (tensor_name, part) in self._loaded:
            raise LoadError(f"{shown} is there twice")
        self._check(shown, tensor_name, tensor, self._rows(part))
        self._loaded[tensor_name, part] = tensor.detach().cpu()

    def packed(self, device: torch.device = _CPU) -> nn.Module:
        """The joined matrix for a device's kernels. Raises: as `matrix`; LoadError: it has none."""
        matrix = self.matrix()
        if device.type == "cpu":
            return PackedLinear.from_ternary(matrix.codes, matrix.scales)
        from ternary_kernels.gpu.linear import GpuLinear  # needs Triton, which PyTorch for CUDA brings

        return GpuLinear.from_ternary(matrix.codes, matrix.scales, device)

    def matrix(self) -> QuantizedMatrix[Tensor]:
        """The joined matrix; what was loaded is let go.

        Raises:
            LoadError: a tensor is missing, a code is not ternary, a scale is none that exports have.
        """
        has_whole = any(part is None for _, part in self._loaded)
        parts: list[int | None] = [None] if has_whole else list(range(len(self.part_rows)))
        missing = [
            f"{end} of part {part}" if len(parts) > 1 else end
            for part in parts
            for end in self.tensors
            if (end, part) not in self._loaded
        ]
        if missing:
            raise LoadError(f"{self.name}: {', '.join(missing)} is missing in the folder; export it again")
        if len(self._loaded) > len(parts) * len(self.tensors):
            raise LoadError(f"{self.name} is there both whole and in parts; export it again")
        codes, scales = zip(*map(self._codes_and_scales, parts), strict=True)
        self._loaded.clear()
        matrix = from_blocks(self.name, np.concatenate(codes), np.concatenate(scales))
        return matrix.to(lambda array: torch.from_numpy(np.asarray(array)))

    def _load_shard(
        self, tensor_name: str, parameter: nn.Parameter, tensor: Tensor, shard: str | int | None = None
    ) -> None:
        self.load(tensor_name, tensor, part_of(shard))

    def _rows(self, part: int | None) -> int:
        return sum(self.part_rows) if part is None else self.part_rows[part]

    def _check(self, shown: str, tensor_name: str, tensor: Tensor, rows: int) -> None:
        shapes = self._shapes(shown, rows)
        if tensor_name not in shapes:
            raise LoadError(f"{shown} is none of {', '.join(shapes)}")
        if tuple(tensor.shape) != shapes[tensor_name]:
            expected = list(shapes[tensor_name])
            raise LoadError(f"{shown} has the shape {list(tensor.shape)}, the model has {expected}")
        if tensor_name == "weight_shape":
            if tensor.tolist() != [rows, self.in_features]:
                raise LoadError(f"{shown} says {tensor.tolist()}, the model has {[rows, self.in_features]}")
        elif tensor_name == "weight_scale":
            if not tensor.is_floating_point():
                raise LoadError(f"{shown} is {tensor.dtype}, expected floats")
        elif tensor.dtype != self.tensors[tensor_name]:
            raise LoadError(f"{shown} is {tensor.dtype}, expected {self.tensors[tensor_name]}")

    def _shapes(self, shown: str, rows: int) -> dict[str, tuple[int, ...]]:
        storage, group_size = self.quantization.storage, self.quantization.group_size
        columns = self.in_features
        per_unit = CODES_PER_WORD if storage is Storage.PACKED_WORDS else CODES_PER_BYTE
        along = rows if storage is Storage.PACKED_ROWS else columns
        for length, unit in ((along, per_unit), (columns, group_size or 1)):
            if length % unit:
                raise LoadError(f"{shown}: {length} codes do not divide into {unit} at a time")
        if storage is Storage.PACKED_ROWS:
            return {"weight": (rows // per_unit, columns), "weight_scale": (1,)}
        shapes: dict[str, tuple[int, ...]] = {
            self._codes_name: (rows, columns // per_unit),
            "weight_scale": (rows, columns // group_size if group_size else 1),
        }
        return shapes | ({"weight_shape": (2,)} if storage is Storage.PACKED_WORDS else {})

    @property
    def _codes_name(self) -> str:
        return next(iter(self.tensors))

    def _codes_and_scales(self, part: int | None) -> tuple[np.ndarray, np.ndarray]:
        """int8 [rows, in] and float32 [rows, in / group] (one column: of the rows)."""
        packed = self._loaded[self._codes_name, part].contiguous().numpy()
        scales = self._loaded["weight_scale", part].float().numpy()
        if self.quantization.has_inverse_scales:
            with np.errstate(divide="ignore"):  # 1 / 0 is refused as not finite
                scales = np.float32(1) / scales
        check_stored_scales(f"{self.name}.weight_scale", scales)
        if self.quantization.storage is Storage.PACKED_WORDS:
            return unpack_words(packed), scales
        if self.quantization.storage is Storage.PACKED_INPUTS:
            return unpack_inputs(packed), scales
        codes = unpack_rows(packed)
        return codes, np.full((codes.shape[0], 1), scales.reshape(()), np.float32)
