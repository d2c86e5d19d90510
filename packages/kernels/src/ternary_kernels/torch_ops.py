"""PyTorch operators on packed ternary matrices, for the CPU, and a layer made of them.

    torch.ops.ternary_kernels.linear(x, *packed, rows, cols, group_size, format) -> y
    torch.ops.ternary_kernels.pack(codes, scales, format) -> packed
    torch.ops.ternary_kernels.unpack(*packed, rows, cols, group_size, format) -> (codes, scales)

`packed` is (data, row_scales, group_scales), three ordinary tensors (byte layouts: FORMATS.md), so that a
`state_dict`, vLLM or SGLang can hold them. `linear` rounds each row of x to int8, as BitNet computes, and
multiplies with the kernels of the native decoder. All have shape functions: they compile without a graph
break. Inference only: the backward raises. Importing this module needs PyTorch and registers the operators.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ternary_kernels import _native
from ternary_kernels._native import Matrix
from ternary_kernels.packing import TernaryFormat, pack_ternary

Packed = tuple[Tensor, Tensor, Tensor]
FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def packed_parts(matrix: Matrix) -> Packed:
    """The matrix as tensors that share its memory: data uint8 [row blocks, bytes], row_scales float32
    [row blocks * 16], group_scales float16 [row blocks, groups, 16] (no groups: [row blocks, 0, 16])."""
    data, row_scales, group_scales = matrix.parts()
    return (
        torch.from_numpy(data),
        torch.from_numpy(row_scales),
        torch.from_numpy(group_scales.view(np.float16)),
    )


def matrix_of(
    data: Tensor, row_scales: Tensor, group_scales: Tensor, rows: int, cols: int, group_size: int, format: str
) -> Matrix:
    """A matrix that shares the tensors' memory.

    Raises:
        ValueError: a dtype, device, layout or size does not fit, or memory not aligned to 64 bytes.
    """
    arrays = (
        _array(data, "data", torch.uint8),
        _array(row_scales, "row_scales", torch.float32),
        _array(group_scales, "group_scales", torch.float16).view(np.uint16),
    )
    return Matrix.from_parts(*arrays, rows, cols, group_size, format)


def _array(tensor: Tensor, name: str, *dtypes: torch.dtype) -> np.ndarray:
    _check(tensor, name, *dtypes)
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous (strides {tensor.stride()}); call .contiguous()")
    return tensor.detach().numpy()


def _check(tensor: Tensor, name: str, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}, not {' or '.join(map(str, dtypes))}")
    if tensor.device.type not in ("cpu", "meta"):
        raise ValueError(f"{name} is on {tensor.device}; ternary_kernels run on the CPU: call .cpu()")


def _check_input(x: Tensor, cols: int) -> None:
    _check(x, "x", *FLOAT_TYPES)
    if x.dim() == 0 or x.shape[-1] != cols:
        raise ValueError(f"x is {list(x.shape)}, the matrix has {cols} columns")


@torch.library.custom_op("ternary_kernels::linear", mutates_args=())
def linear(
    x: Tensor,
    data: Tensor,
    row_scales: Tensor,
    group_scales: Tensor,
    rows: int,
    cols: int,
    group_size: int,
    format: str,
) -> Tensor:
    """[..., cols] -> [..., rows] in the dtype of x; threads: `torch.get_num_threads()`.

    Raises:
        ValueError: as `matrix_of`; x is not a float tensor or has other columns.
    """
    _check_input(x, cols)
    matrix = matrix_of(data, row_scales, group_scales, rows, cols, group_size, format)
    flat = x.detach().float().reshape(-1, cols).contiguous()
    y = torch.from_numpy(matrix.linear(flat.numpy(), num_threads=torch.get_num_threads()))
    return y.view(*x.shape[:-1], rows).to(x.dtype)


@linear.register_fake
def _(
    x: Tensor,
    data: Tensor,
    row_scales: Tensor,
    group_scales: Tensor,
    rows: int,
    cols: int,
    group_size: int,
    format: str,
) -> Tensor:
    _check_input(x, cols)
    return x.new_empty((*x.shape[:-1], rows))


def _no_backward(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "ternary_kernels::linear has no gradient: packed weights are for inference; train the unpacked model"
    )


linear.register_autograd(_no_backward)


@torch.library.custom_op("ternary_kernels::pack", mutates_args=())
def pack(codes: Tensor, scales: Tensor, format: str) -> Packed:
    """codes int8 [rows, cols] in {-1, 0, 1}; scales float32 [], [rows] or [rows, groups]; format t2 or t5.

    Raises:
        ValueError: a dtype, device, shape, code or scale that does not fit.
    """
    matrix = _native.pack(
        _array(codes, "codes", torch.int8),
        _array(scales, "scales", torch.float32),
        format,
        torch.get_num_threads(),
    )
    data, row_scales, group_scales = packed_parts(matrix)
    return data, row_scales, group_scales


@pack.register_fake
def _(codes: Tensor, scales: Tensor, format: str) -> Packed:
    rows, cols = codes.shape
    group_size = cols // scales.shape[1] if scales.dim() == 2 else 0
    return _empty_parts(int(rows), int(cols), int(group_size), format, codes.device)


def _empty_parts(
    rows: int, cols: int, group_size: int, format: str, device: torch.device | None = None
) -> Packed:
    blocks, block_bytes, groups = _native.packed_shape(rows, cols, group_size, format)
    return (
        torch.zeros((blocks, block_bytes), dtype=torch.uint8, device=device),
        torch.zeros(blocks * 16, dtype=torch.float32, device=device),
        torch.zeros((blocks, groups, 16), dtype=torch.float16, device=device),
    )


@torch.library.custom_op("ternary_kernels::unpack", mutates_args=())
def unpack(
    data: Tensor, row_scales: Tensor, group_scales: Tensor, rows: int, cols: int, group_size: int, format: str
) -> tuple[Tensor, Tensor]:
    """codes int8 [rows, cols] and scales float32 [rows] or [rows, groups]; raises as `matrix_of`."""
    codes, scales = matrix_of(data, row_scales, group_scales, rows, cols, group_size, format).unpack()
    return torch.from_numpy(codes), torch.from_numpy(scales)


@unpack.register_fake
def _(
    data: Tensor, row_scales: Tensor, group_scales: Tensor, rows: int, cols: int, group_size: int, format: str
) -> tuple[Tensor, Tensor]:
    shape = (rows, cols // group_size) if group_size else (rows,)
    return data.new_empty((rows, cols), dtype=torch.int8), data.new_empty(shape, dtype=torch.float32)


class TernaryLayer(Protocol):
    """What `PackedLinear.from_layer` reads besides codes and scales, as bitnet_arch.BitLinear has it."""

    bias: nn.Parameter | None
    sub_norm: nn.Module | None


class PackedLinear(nn.Module):
    """y = round(norm(x)) W^T + b with a packed ternary W: a linear layer for inference.

    Buffers `data`, `row_scales` and `group_scales` hold the matrix; a `state_dict` of the same shape and
    format loads into them.

    Args:
        in_features, out_features: columns and rows.
        group_size: inputs that share a scale; 0: one scale per row.
        format: `t2` or `t5`, see `pack_ternary`.
        bias: float32 [out_features] or None.
        sub_norm: norm of the input, or None.
    """

    data: Tensor
    row_scales: Tensor
    group_scales: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        group_size: int = 0,
        format: str = "t2",
        bias: Tensor | None = None,
        sub_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.group_size, self.format = group_size, format
        self._register(_empty_parts(out_features, in_features, group_size, format))
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.sub_norm = sub_norm

    def _register(self, parts: Packed) -> None:
        for name, part in zip(("data", "row_scales", "group_scales"), parts, strict=True):
            self.register_buffer(name, part)

    @classmethod
    def from_ternary(
        cls,
        codes: Tensor,
        scales: Tensor,
        bias: Tensor | None = None,
        sub_norm: nn.Module | None = None,
        format: TernaryFormat = "auto",
    ) -> PackedLinear:
        """Packs codes int8 [out, in] and scales float32 [], [out] or [out, groups].

        Raises:
            ValueError: as `pack_ternary`.
        """
        matrix = pack_ternary(codes.numpy(), scales.detach().numpy(), format)
        with torch.device("meta"):
            layer = cls(matrix.cols, matrix.rows, matrix.group_size, matrix.format)
        layer._register(packed_parts(matrix))
        layer.register_buffer("bias", None if bias is None else bias.detach())
        layer.sub_norm = sub_norm
        return layer

    @classmethod
    def from_layer(
        cls, layer: TernaryLayer, codes: Tensor, scales: Tensor, format: TernaryFormat = "auto"
    ) -> PackedLinear:
        """The replacement of a ternary layer (bitnet_arch.BitLinear) whose codes and scales are given.

        Raises:
            ValueError: as `pack_ternary`; or a layer with a low-rank correction, which would be lost.
        """
        if hasattr(layer, "lrc_u"):
            raise ValueError("the layer has a low-rank correction, which PackedLinear does not compute")
        return cls.from_ternary(codes, scales, layer.bias, layer.sub_norm, format)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.sub_norm is not None:
            x = self.sub_norm(x)
        y = linear(
            x,
            self.data,
            self.row_scales,
            self.group_scales,
            self.out_features,
            self.in_features,
            self.group_size,
            self.format,
        )
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        group = f", group_size={self.group_size}" if self.group_size else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}{group}, format={self.format}"
        )
