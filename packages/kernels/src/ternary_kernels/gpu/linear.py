"""A ternary linear on a GPU: a PyTorch operator on packed weights, and a layer made of it.

    torch.ops.ternary_kernels.linear_gpu(x, *packed, cols) -> y

What `ternary_kernels.torch_ops.linear` and `PackedLinear` are on the CPU: x becomes int8 for each token, by
the formula of training, and the weights stay in two bits. It has a shape function, so that torch.compile
takes it as one step. Inference only: no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ternary_kernels.gpu.launch import DEVICE
from ternary_kernels.gpu.packed_products import packed_product
from ternary_kernels.gpu.packing import PackedMatrix, pack_for_gpu
from ternary_kernels.gpu.rounding import quantize_rows
from wf_formats.errors import LoadError

CAPABILITY = (8, 0)
"""Compute capability that a GPU needs: Ampere's, by which bfloat16 and int8 tensor cores came together."""
_SMALLEST = 1e-5
"""Least max|x| of a token, as in training and on the CPU."""


@torch.library.custom_op("ternary_kernels::linear_gpu", mutates_args=())
def linear_gpu(x: Tensor, data: Tensor, row_scales: Tensor, group_scales: Tensor, cols: int) -> Tensor:
    """[..., cols] -> [..., out] in the dtype of x (float32, bfloat16, float16).

    A token that is not finite gives NaN.

    Raises:
        ValueError: as `packed_product`.
    """
    flat = x.reshape(-1, cols).contiguous()
    codes, inverse = quantize_rows(flat, _SMALLEST)
    y = packed_product(codes, inverse, PackedMatrix(data, row_scales, group_scales, cols), x.dtype)
    return y.view(*x.shape[:-1], row_scales.shape[0])


@linear_gpu.register_fake
def _(x: Tensor, data: Tensor, row_scales: Tensor, group_scales: Tensor, cols: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], row_scales.shape[0]))


def check_device(device: torch.device) -> None:
    """Raises LoadError: a GPU on which the kernels do not run; names it."""
    if device.type != DEVICE:
        raise LoadError(f"the ternary kernels in Triton run on {DEVICE} here, not on {device}")
    if device.type != "cuda":
        return
    name, found = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if torch.version.hip is not None:
        raise LoadError(f"{name}: the ternary kernels are for NVIDIA's GPUs; use wf serve, on CPUs")
    if found < CAPABILITY:
        needed, shown = (".".join(map(str, version)) for version in (CAPABILITY, found))
        raise LoadError(
            f"{name} has compute capability {shown}, the ternary kernels need {needed} or newer; "
            "use wf serve, on CPUs"
        )


class GpuLinear(nn.Module):
    """y = round(x) W^T with a packed ternary W, on a GPU; buffers hold the matrix.

    Args:
        matrix: on the GPU already, or moved there later with the module.
    """

    data: Tensor
    row_scales: Tensor
    group_scales: Tensor

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.in_features, self.out_features = matrix.cols, matrix.data.shape[0]
        for name in ("data", "row_scales", "group_scales"):
            self.register_buffer(name, getattr(matrix, name))

    @classmethod
    def from_ternary(cls, codes: Tensor, scales: Tensor, device: torch.device) -> GpuLinear:
        """Packs codes int8 [out, in] and scales float32 [], [out] or [out, groups] for `device`.

        Raises:
            LoadError: as `check_device` and `pack_for_gpu`.
        """
        check_device(device)
        return cls(pack_for_gpu(codes, scales).to(device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y: Tensor = linear_gpu(x, self.data, self.row_scales, self.group_scales, self.in_features)
        return y

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
