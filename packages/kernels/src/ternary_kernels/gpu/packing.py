"""Ternary matrices of two bits for products on a GPU: the layout, and packing.

128 inputs of a row are a unit of 32 bytes, four planes of 32 inputs each: byte p of unit u holds the level
code + 1 of input 128 u + 32 i + p at its bits 2 i, i = 0..3. So four bytes, masked, are the levels of four
neighbours, which one instruction multiplies with four tokens' codes; a plane is what a product on tensor
cores takes at once; and a scale's group is one plane, two or four. A row's last unit is filled with the code
0.

Scales are kept as on the CPU (FORMATS.md): a float32 for each row; with groups that is the power of two which
brings the row's largest scale into 1 .. 2, and each group has a float16 besides (relative error below 2^-11).
Cost: 2 bits for each weight; 2.25 with groups of 64, 2.125 with groups of 128.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wf_formats.errors import LoadError
from wf_formats.packed_codes import SHIFTS

UNIT = 128
"""Inputs of a unit."""
PLANE = 32
"""Inputs of one of its planes, and bytes of a unit."""
GROUPS = (32, 64, 128)
"""Inputs that may share a scale, where not the whole row does."""


@dataclass(frozen=True)
class PackedMatrix:
    """A ternary matrix as the kernels take it."""

    data: Tensor
    """uint8 [out, units * 32]."""
    row_scales: Tensor
    """float32 [out]."""
    group_scales: Tensor
    """float16 [out, groups]; [out, 0]: a scale for each row."""
    cols: int
    """Inputs."""

    def to(self, device: torch.device) -> PackedMatrix:
        """The same on another device."""
        data, row_scales, group_scales = (
            part.to(device) for part in (self.data, self.row_scales, self.group_scales)
        )
        return PackedMatrix(data, row_scales, group_scales, self.cols)


def pack_for_gpu(codes: Tensor, scales: Tensor) -> PackedMatrix:
    """Packs on the device of the tensors.

    Args:
        codes: int8 [out, in] in {-1, 0, 1}.
        scales: float32 [] (of the matrix), [out] or [out, groups].

    Raises:
        LoadError: groups of another size than `GROUPS`, or inputs that do not divide into fours.
    """
    rows, cols = codes.shape
    if cols % 4:
        raise LoadError(f"{cols} inputs do not divide into fours, as the GPU kernels take them: use wf serve")
    units = -(-cols // UNIT)
    levels = (
        (F.pad(codes, (0, units * UNIT - cols)) + 1).to(torch.uint8).view(rows, units, len(SHIFTS), PLANE)
    )
    data = sum(levels[:, :, plane] << shift for plane, shift in enumerate(SHIFTS))
    return PackedMatrix(torch.as_tensor(data).view(rows, -1), *_scales(scales, rows, cols), cols)


def _scales(scales: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    if scales.dim() < 2:
        return scales.expand(rows).contiguous(), scales.new_empty((rows, 0), dtype=torch.float16)
    if (size := cols / scales.shape[1]) not in GROUPS:
        known = ", ".join(map(str, GROUPS))
        raise LoadError(f"a scale for {size:g} inputs; the GPU kernels take groups of {known}: use wf serve")
    largest = scales.abs().amax(1)
    _, exponent = torch.frexp(torch.where(largest > 0, largest, 1.0))
    power = torch.ldexp(torch.ones_like(largest), exponent - 1)
    return power, (scales / power[:, None]).to(torch.float16)
