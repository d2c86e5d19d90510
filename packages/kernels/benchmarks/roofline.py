"""How close each kernel comes to what the machine can do: its memory bandwidth, or dot products on registers.

    python packages/kernels/benchmarks/roofline.py > roofline.json

First the limits: reading from memory and from the L3 and L2 caches, and the widest int8 and float32
multiply-adds of the running instruction set. Then the kernels, on the shapes of BitNet-2B (hidden 2560,
feed-forward 6912, 20/5 heads of 128), each checked against numpy in float64 before it is timed. Products run
through as many copies of the matrix as exceed the caches, as a decoder step runs through its layers;
quantization of the inputs is timed apart. Of a limit's repeats the best counts, of a kernel's the median.
For each kernel:

    gb_per_s     packed bytes read per second
    gmac_per_s   multiply-adds; a wide product has two int8 halves and counts twice
    share        least time, the larger of bytes / bandwidth and multiply-adds / peak, over the time taken
    bound        which of the two it is

`others_cpu_share` tells what other processes took of the cores meanwhile; above 0.03, measure again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import ternary_kernels as tk
from ternary_kernels import _native
from wf_formats.environment import OtherProcesses, environment, num_cores

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 2560, 6912, 20, 5, 128, 30
TOKENS = (1, 8, 12, 16, 128)


@dataclass(frozen=True)
class Limits:
    """Per second, all threads together, best repeat; 0: no such loop on this instruction set."""

    memory: float
    l3: float
    l2: float
    int8: float
    float32: float


@dataclass(frozen=True)
class Settings:
    threads: int
    repeats: int
    megabytes: int
    """Packed weights that a product runs through."""
    shrink: int
    """Divides matrix rows and contexts, for tests of this script."""


def measure_limits(settings: Settings) -> Limits:
    def peak(kind: str) -> float:
        if _native.info()["isa"] == "scalar":
            return 0.0
        return max(
            _native.measure_peak(kind, 2_000_000 // settings.shrink, settings.threads, settings.repeats)
        )

    def bandwidth(num_bytes: int, passes: int) -> float:
        return max(_native.measure_bandwidth(num_bytes, passes, settings.threads, settings.repeats))

    mib = 1 << 20
    return Limits(
        memory=bandwidth(settings.megabytes * mib, 1),
        l3=bandwidth(6 * mib, 10),
        l2=bandwidth(mib // 2, 200),
        int8=peak("int8"),
        float32=peak("float32"),
    )


def entry(
    name: str, seconds: list[float], num_bytes: float, macs: float, bandwidth: float, peak: float, **more: Any
) -> dict[str, Any]:
    """One kernel's figures."""
    taken = statistics.median(seconds)
    least_memory, least_macs = num_bytes / bandwidth, macs / peak if peak else 0.0
    return {
        "kernel": name,
        **more,
        "median_us": 1e6 * taken,
        "gb_per_s": num_bytes / taken / 1e9,
        "gmac_per_s": macs / taken / 1e9,
        "bandwidth_share": least_memory / taken,
        "peak_share": least_macs / taken,
        "share": max(least_memory, least_macs) / taken,
        "bound": "bandwidth" if least_memory >= least_macs else "multiply-adds",
    }


def check(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not error <= tolerance:
        sys.exit(f"{name} is wrong: error {error:.2e} of the largest value, allowed {tolerance:.0e}")


def expected_product(matrix: tk.Matrix, x: np.ndarray, precision: str) -> np.ndarray:
    """float64 [tokens, first 256 rows]."""
    codes, scales = (array[:256] for array in matrix.unpack())
    values = codes.reshape(len(codes), scales[0].size, -1) * scales.reshape(len(codes), -1, 1).astype(
        np.float64
    )
    if precision == "int8":
        inverse = np.float32(127) / np.abs(x).max(-1, keepdims=True)
        x = np.rint(x * inverse) / inverse.astype(np.float64)
    return x.astype(np.float64) @ values.reshape(codes.shape).T


def product(
    name: str, matrices: list[tk.Matrix], tokens: int, precision: str, limits: Limits, settings: Settings
) -> dict[str, Any]:
    matrix = matrices[0]
    x = np.random.default_rng(1).standard_normal((tokens, matrix.cols), np.float32)
    found = matrix.linear(x, precision, settings.threads)[:, :256]
    check(
        f"{name} {matrix}",
        found,
        expected_product(matrix, x, precision),
        1e-5 if precision == "int8" else 1e-4,
    )
    seconds = _native.time_products(matrices, x, precision, settings.threads, settings.repeats)
    count = len(matrices)
    macs = count * tokens * matrix.rows * matrix.cols * (2 if precision == "wide" else 1)
    sizes = {"rows": matrix.rows, "cols": matrix.cols, "group": matrix.group_size, "tokens": tokens}
    num_bytes = sum(each.num_bytes for each in matrices)
    return entry(
        name,
        [s / count for s in seconds],
        num_bytes / count,
        macs / count,
        limits.memory,
        limits.int8,
        **sizes,
    )


def copies(pack: Any, settings: Settings) -> list[tk.Matrix]:
    """As many equal matrices as fill the settings' megabytes."""
    first = pack()
    return [first, *(pack() for _ in range((settings.megabytes << 20) // first.num_bytes))]


def ternary_products(limits: Limits, settings: Settings) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for rows, cols in ((INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)):
        rows //= settings.shrink
        codes = rng.integers(-1, 2, (rows, cols)).astype(np.int8)
        for form in ("t2", "t5"):
            for group in (0, 64, 128):
                shape = (rows, cols // group) if group else (rows,)
                scales = rng.uniform(0.5, 1.5, shape).astype(np.float32)
                matrices = copies(lambda c=codes, s=scales, f=form: tk.pack_ternary(c, s, f), settings)
                for tokens in TOKENS:
                    yield product(f"ternary {form}", matrices, tokens, "int8", limits, settings)


def head_products(limits: Limits, settings: Settings) -> Iterator[dict[str, Any]]:
    """A quarter of the vocabulary's rows: more than the caches hold, and quick to make."""
    rng = np.random.default_rng(0)
    rows = 32_064 // settings.shrink
    for bits in (8, 6, 4):
        codes = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (rows, HIDDEN), np.int8)
        scales = rng.uniform(0.5, 1.5, (rows, HIDDEN // 32)).astype(np.float32)
        matrices = copies(lambda c=codes, s=scales, b=bits: tk.pack_groups(c, s, b), settings)
        for tokens in (1, 8, 16):
            yield product(f"head q{bits}", matrices, tokens, "wide", limits, settings)


def attention(limits: Limits, settings: Settings) -> Iterator[dict[str, Any]]:
    """One token behind short and long contexts, and a piece of a long prompt, on each type of cache."""
    rng = np.random.default_rng(0)
    for context, new, layers in ((1024, 1, LAYERS), (4096, 1, 8), (16_384, 1, 2), (2048, 512, 1)):
        context, new = max(context // settings.shrink, 1), max(new // settings.shrink, 1)
        queries = rng.standard_normal((new, HEADS, HEAD_DIM), np.float32)
        keys, values = rng.standard_normal((2, context, KV_HEADS, HEAD_DIM), np.float32)
        expected = expected_attention(queries, keys, values)
        seen = sum(range(context - new + 1, context + 1))
        for cache, element_bytes, tolerance in (("f32", 4, 1e-5), ("f16", 2, 2e-3), ("int8", 1, 4e-2)):
            found, seconds = _native.time_attention(
                queries, keys, values, cache, 0, layers, settings.threads, settings.repeats
            )
            check(f"attention {cache}", found, expected, tolerance)
            scale_bytes = 4 if cache == "int8" else 0
            num_bytes = layers * context * KV_HEADS * 2 * (HEAD_DIM * element_bytes + scale_bytes)
            macs = layers * seen * HEADS * 2 * HEAD_DIM
            # int8 numbers are multiplied by 16-bit factors, twice as many to a vector as floats
            peak = limits.float32 * (2 if cache == "int8" else 1)
            sizes = {"context": context, "new_tokens": new, "layers": layers}
            yield entry(f"attention {cache}", seconds, num_bytes, macs, limits.memory, peak, **sizes)


def expected_attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [new, heads, head_dim] of the last tokens."""
    new, context = len(queries), len(keys)
    grouped = queries.reshape(new, KV_HEADS, -1, HEAD_DIM).astype(np.float64)
    scores = np.einsum("ngrd,tgd->ngrt", grouped, keys, optimize=True) / np.sqrt(HEAD_DIM)
    later = np.arange(context) > np.arange(context - new, context)[:, None]
    scores[np.broadcast_to(later[:, None, None], scores.shape)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("ngrt,tgd->ngrd", weights, values, optimize=True).reshape(queries.shape)


def row_kernels(limits: Limits, settings: Settings) -> Iterator[dict[str, Any]]:
    """Kernels that treat tokens alone, on 16 tokens, in the L2 caches."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    wide, up = normal(16, INTERMEDIATE), normal(16, INTERMEDIATE)
    hidden, weight = normal(16, HIDDEN), normal(HIDDEN)
    heads, angle = normal(16 * (HEADS + KV_HEADS), HEAD_DIM), normal(HEAD_DIM // 2)
    cos, sin = np.cos(angle), np.sin(angle)
    left, right = np.split(heads, 2, axis=1)
    turned = np.hstack([left * cos - right * sin, right * cos + left * sin])
    size = np.sqrt((hidden.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5)
    silu = wide / (1 + np.exp(-wide.astype(np.float64))) * up
    inverse = np.float32(127) / np.abs(wide).max(-1, keepdims=True)
    cases = {
        "rms_norm": (hidden, weight, hidden / size * weight, 2),
        "rope": (heads, np.concatenate([cos, sin]), turned, 2),
        "silu_gate": (wide, up, silu, 3),
        "relu2_gate": (wide, up, np.maximum(wide, 0) ** 2 * up, 3),
        "quantize": (wide, np.zeros(0, np.float32), np.rint(wide * inverse) / inverse, 1.25),
    }
    for name, (x, y, expected, floats_moved) in cases.items():
        found, seconds = _native.time_rows(name, x, y, settings.threads, settings.repeats)
        check(name, found, expected, 1e-5)
        num_bytes = 4 * floats_moved * x.size
        yield entry(name, seconds, num_bytes, 0.0, limits.l2, 0.0, rows=x.shape[0], cols=x.shape[1])


def report(settings: Settings) -> dict[str, Any]:
    with OtherProcesses() as others:
        limits = measure_limits(settings)
        kernels = [
            figures
            for measure in (ternary_products, head_products, attention, row_kernels)
            for figures in measure(limits, settings)
        ]
    return {
        **environment("numpy"),
        "instruction_set": tk.info()["isa"],
        "settings": asdict(settings),
        "others_cpu_share": others.cores / (os.cpu_count() or 1),
        "limits": {f"{name}_per_s": rate for name, rate in asdict(limits).items()},
        "kernels": kernels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--megabytes", type=int, default=128, help="of packed weights that a product reads")
    parser.add_argument("--shrink", type=int, default=1, help="divides sizes; for tests")
    parser.add_argument("--isa", default="auto", help="instruction set; see ternary_kernels.info()")
    values = vars(parser.parse_args())
    tk.select_isa(values.pop("isa"))
    print(json.dumps(report(Settings(**values)), indent=2))


if __name__ == "__main__":
    main()
