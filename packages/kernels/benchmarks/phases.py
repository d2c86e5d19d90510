"""Products of complex matrices (p1, p2) beside ternary ones (t2) and codes of 4 bits, in turns on one thread.

    python packages/kernels/benchmarks/phases.py
    python packages/kernels/benchmarks/phases.py --shapes 6912x2560 --tokens 1,16

Copies of a matrix that no cache holds, as the layers of a model are; least times. Before that the products
are compared with numpy's. Prints JSON: real weights a second times tokens, in 10^9, and the ratio to t2.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np

import ternary_kernels as tk
from ternary_kernels._native import time_products
from wf_formats.environment import OtherProcesses, environment
from wf_formats.phases import PhaseMatrix

WEIGHTS = 1 << 27
"""Of the copies."""
ROUNDS = 5


def phases(rng: np.random.Generator, rows: int, cols: int, planes: int) -> PhaseMatrix:
    exponents = rng.integers(0, 4, (planes, 2, rows // 2, cols // 2)).astype(np.uint8)
    return PhaseMatrix(exponents, rng.uniform(0.5, 1, (planes, 2, 2)).astype(np.float32))


def makers(rng: np.random.Generator, rows: int, cols: int) -> dict[str, tuple[Callable[[], tk.Matrix], str]]:
    """Format -> what makes a matrix, and the precision of its inputs."""
    codes = rng.integers(-1, 2, (rows, cols)).astype(np.int8)
    nibbles = rng.integers(-8, 8, (rows, cols)).astype(np.int8)
    scales = np.ones((rows, cols // 32), np.float32)
    sums = {planes: phases(rng, rows, cols, planes) for planes in (1, 2)}
    return {
        "t2": (lambda: tk.pack_ternary(codes, 1.0, "t2"), "int8"),
        "p1": (lambda: tk.pack_phases(sums[1].phases, sums[1].scales), "halves"),
        "p2": (lambda: tk.pack_phases(sums[2].phases, sums[2].scales), "halves"),
        "q4": (lambda: tk.pack_groups(nibbles, scales, 4), "groups"),
    }


def check(rng: np.random.Generator) -> None:
    """Raises AssertionError where products are not those of the values."""
    for planes in (1, 2):
        matrix = phases(rng, 130, 200, planes)
        x = rng.integers(-127, 128, (5, 200)).astype(np.float32)
        x[:, 0] = 127
        found = tk.pack_phases(matrix.phases, matrix.scales).linear(x, "halves")
        np.testing.assert_allclose(found, x @ matrix.values().T, rtol=1e-5, atol=1e-2)


def measure(rows: int, cols: int, tokens: list[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Tokens -> format -> speed, and its ratio to t2's."""
    rng = np.random.default_rng(0)
    copies = max(1, WEIGHTS // (rows * cols))
    made = {
        name: ([make() for _ in range(copies)], its) for name, (make, its) in makers(rng, rows, cols).items()
    }
    found = {}
    for count in tokens:
        x = rng.normal(size=(count, cols)).astype(np.float32)
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for number in range(ROUNDS):
            for name in [*made][:: 1 if number % 2 else -1]:
                matrices, precision = made[name]
                seconds[name] += time_products(matrices, x, precision=precision, num_threads=1, repeats=1)
        work = rows * cols * copies * count / 1e9
        speeds = {name: work / min(its) for name, its in seconds.items()}
        found[f"{count} tokens"] = {
            name: {"G/s": round(speed, 1), "beside_t2": round(speed / speeds["t2"], 2)}
            for name, speed in speeds.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="1536x576,6912x2560", help="rows x columns, with commas between")
    parser.add_argument("--tokens", default="1,16")
    options = parser.parse_args()
    check(np.random.default_rng(1))
    tokens = [int(count) for count in options.tokens.split(",")]
    with OtherProcesses() as others:
        found = {
            shape: measure(*(int(size) for size in shape.split("x")), tokens)
            for shape in options.shapes.split(",")
        }
    facts = {"isa": tk.info()["isa"], "busy_cores_of_others": round(others.cores, 2)} | environment("numpy")
    print(json.dumps({"products": found} | facts, indent=2))


if __name__ == "__main__":
    main()
