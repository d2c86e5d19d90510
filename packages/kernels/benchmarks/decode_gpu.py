"""Linears of a decoding step on a GPU: packed ternary weights and int8 tokens beside PyTorch in bfloat16.

    uv run python packages/kernels/benchmarks/decode_gpu.py --tokens 1 8 64 > decode.json

For each shape of a model's linears as servers join them (q, k, v; gate, up): rounding of tokens and product,
against torch.nn.functional.linear with weights in bfloat16 (cuBLAS). Either runs as a CUDA graph over so many
layers that their weights are larger than the GPU's cache and come out of its memory, as in a model. Arms in
turns in one process, medians on the GPU's clock. Before timing, products are checked against float64. Prints
JSON, with the bytes of weights read per second; refuses without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from on_a_gpu import print_measured
from torch import Tensor
from torch.nn import functional as F

SHAPES = {
    "SmolLM2-135M": ((960, 576), (576, 576), (3072, 576), (576, 1536)),
    "BitNet-2B": ((3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)),
    "Qwen3-8B": ((6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)),
}
"""[out, in] of qkv, o, gate and up, down."""
CACHE_BYTES = 256 << 20
"""More than a GPU keeps: weights of an arm take at least so much."""
GROUP = 64


def ternary(rows: int, cols: int, group: int) -> tuple[Tensor, Tensor]:
    """Codes int8 [rows, cols], scales float32 [rows, groups] or [rows], on the CPU."""
    codes = torch.randint(-1, 2, (rows, cols), dtype=torch.int8)
    return codes, torch.rand(rows, cols // group) + 0.5 if group else torch.rand(rows) + 0.5


def check(group: int) -> None:
    """Raises AssertionError: a product off by more than the rounding of bfloat16."""
    from ternary_kernels.gpu.linear import GpuLinear

    codes, scales = ternary(960, 576, group)
    layer = GpuLinear.from_ternary(codes, scales, torch.device("cuda"))
    weight = (codes.view(960, scales.numel() // 960, -1) * scales.view(960, -1, 1)).view(960, 576).double()
    for tokens in (1, 5, 40):
        x = torch.randint(-127, 128, (tokens, 576)).float()
        x[:, 0] = 127  # rounding to int8 changes nothing
        exact = x.double() @ weight.T
        found = layer(x.to("cuda", torch.bfloat16)).cpu().double()
        assert (found - exact).abs().max() <= 2**-8 * exact.abs().max(), (group, tokens)


def graph_of(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """Captured after a call that compiles."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def seconds(graph: torch.cuda.CUDAGraph) -> float:
    """Of one replay, on the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def race(rows: int, cols: int, tokens: int, group: int, repeats: int) -> dict[str, Any]:
    """Microseconds of a linear by either arm, and what they say of the memory."""
    from ternary_kernels.gpu.linear import GpuLinear

    x = torch.randn(tokens, cols, device="cuda", dtype=torch.bfloat16)
    dense_bytes = 2 * rows * cols
    made = GpuLinear.from_ternary(*ternary(rows, cols, group), torch.device("cuda"))
    packed_bytes = sum(buffer.nbytes for buffer in made.buffers())
    copies = {"dense": CACHE_BYTES // dense_bytes + 1, "packed": CACHE_BYTES // packed_bytes + 1}
    weights = [torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16) for _ in range(copies["dense"])]
    layers = [
        made,
        *(
            GpuLinear.from_ternary(*ternary(rows, cols, group), torch.device("cuda"))
            for _ in range(copies["packed"] - 1)
        ),
    ]
    graphs = {
        "dense": graph_of(lambda: [F.linear(x, weight) for weight in weights]),
        "packed": graph_of(lambda: [layer(x) for layer in layers]),
    }
    times: dict[str, list[float]] = {arm: [] for arm in graphs}
    for repeat in range(repeats + 2):
        for arm, graph in graphs.items():
            elapsed = seconds(graph) / copies[arm]
            if repeat > 1:
                times[arm].append(elapsed)
    medians = {arm: statistics.median(values) for arm, values in times.items()}
    return {
        "shape": [rows, cols],
        "tokens": tokens,
        "dense_us": round(medians["dense"] * 1e6, 2),
        "packed_us": round(medians["packed"] * 1e6, 2),
        "speed_over_bf16": round(medians["dense"] / medians["packed"], 2),
        "dense_gb_per_s": round(dense_bytes / medians["dense"] / 1e9),
        "packed_gb_per_s": round(packed_bytes / medians["packed"] / 1e9),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from ternary_kernels.gpu import describe
    from wf_formats.environment import environment

    torch.manual_seed(0)
    check(options.group)
    shapes = SHAPES[options.model]
    found = [
        race(*shape, tokens, options.group, options.repeats) for tokens in options.tokens for shape in shapes
    ]
    layer = {
        arm: {n: sum(one[f"{arm}_us"] for one in found if one["tokens"] == n) for n in options.tokens}
        for arm in ("dense", "packed")
    }
    return {
        "benchmark": "linears of a decoding step on a GPU, packed ternary against bfloat16",
        "speed_of_a_layer_over_bf16": {
            n: round(layer["dense"][n] / layer["packed"][n], 2) for n in options.tokens
        },
        "linears": found,
        "model": options.model,
        "group": options.group,
        "repeats": options.repeats,
        "kernels": describe(),
        **environment("torch", "triton"),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="BitNet-2B", help="whose shapes")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 16, 64], help="at once")
    parser.add_argument("--group", type=int, default=GROUP, help="inputs that share a scale; 0: a row does")
    parser.add_argument("--repeats", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    print_measured(measure, parse())


if __name__ == "__main__":
    main()
