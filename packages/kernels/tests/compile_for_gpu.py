"""Compiles every Triton kernel for an H100, without one, and prints its name and matrix instructions.

The functions are called on the CPU; each launch is compiled and left out.
"""

# ruff: noqa: T201
import re
import warnings
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from ternary_kernels import gpu
from ternary_kernels.gpu import launch, packed_products
from ternary_kernels.gpu.packing import pack_for_gpu


class Driver:
    """What the compiler asks of a GPU's driver."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    made = launch_kernel(self, *args, grid=grid, warmup=True, **options)
    print(self.fn.__name__, *sorted(set(re.findall(r"w?g?mma\.\S+s8\S*|dp4a\S*", made.asm["ptx"]))))


warnings.simplefilter("error")
triton.runtime.driver.set_active(Driver())
launch.DEVICE = "cpu"
launch_kernel, JITFunction.run = JITFunction.run, compile_instead
x = torch.ones(64, 576, dtype=torch.bfloat16)
ones, labels = torch.ones(64, 1), torch.zeros(64, dtype=torch.long)
codes = torch.zeros(64, 576, dtype=torch.int8)
for seed in (None, 1):
    gpu.quantize_rows(x, 1e-5, seed)
    gpu.quantize_columns(x, ones, 1e-5, seed)
for dtype in gpu.FLOATS:
    gpu.dequantize_rows(codes, ones, dtype)
for group_size in (None, 64):
    gpu.dequantize_groups(*gpu.ternarize(x.float(), group_size, 1e-5), torch.bfloat16)
for col_factors in (None, torch.ones(576)):
    gpu.scale_sums(codes.int(), ones, torch.bfloat16, col_factors)
gpu.group_product(codes, ones, codes, torch.ones(64, 9), torch.bfloat16)
for scales in (torch.ones(64), torch.ones(64, 9)):
    matrix = pack_for_gpu(codes, scales)
    for tokens in (1, 8, 64):
        for packed_products._PROGRAMS in (1, 512):
            packed_products.packed_product(codes[:tokens], ones[:tokens], matrix, torch.bfloat16)
gpu.rms_norm(x.requires_grad_(), torch.ones(576), 1e-5)[0].sum().backward()
gpu.rms_norm_bf16(x, torch.ones(576, dtype=torch.bfloat16), 1e-5)[0].sum().backward()
gpu.swiglu(x, x).sum().backward()
heads = x.view(1, 64, 9, 64)
for angles in (torch.ones(1, 64, 64), torch.ones(1, 64, 64, dtype=torch.bfloat16)):
    sum(y.sum() for y in gpu.turn(heads, heads[:, :, :3].contiguous(), angles, angles)).backward()
logits = x.detach().clone()
gpu.cross_entropy_rows(logits, labels, -100, 0.5)
gpu.divergence_rows(logits, logits.clone(), 0.5)
