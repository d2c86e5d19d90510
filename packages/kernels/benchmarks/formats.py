"""t2 and t5 of a whole model in turns, and what the race between them finds.

    python packages/kernels/benchmarks/formats.py 2b.gguf
    python packages/kernels/benchmarks/formats.py smol.gguf --rounds 21

Each has a decoder of its own with one thread; medians of the ratios of processor time, and least times. Their
logits have to be equal. The race (`ternary_kernels.format_race`) uses all cores, as when a model is packed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import ternary_kernels as tk
from ternary_kernels.format_race import FORMATS, largest_matrix, num_ternary_weights, run_race, shape_class
from wf_formats.environment import OtherProcesses, environment
from wf_formats.models import open_model

PAGES = 16
SHAPES = {"1 token": (1, 1), "prompt of 128": (1, 128), "16 sequences": (16, 1)}
"""By name: sequences, tokens of each."""


def seconds_of(decoder: tk.Decoder, sequences: int, tokens: int) -> tuple[float, np.ndarray]:
    """Of a step without context; and its logits."""
    starts = np.arange(sequences + 1, dtype=np.int32) * tokens
    pages = np.arange(PAGES, dtype=np.int32).reshape(sequences, -1)
    ids, contexts = np.arange(sequences * tokens, dtype=np.int32), np.zeros(sequences, np.int32)
    start = time.thread_time()
    logits = decoder.forward(ids, starts, contexts, pages, starts[1:] - 1)
    return time.thread_time() - start, logits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    found = {}
    with OtherProcesses() as others:
        decoders = {
            name: tk.Decoder(tk.load_model(options.model, format=name), PAGES, num_threads=1)
            for name in FORMATS
        }
        for shape, (sequences, tokens) in SHAPES.items():
            times: dict[str, list[float]] = {name: [] for name in FORMATS}
            for number in range(options.rounds):
                logits = []
                for name in FORMATS[:: 1 if number % 2 else -1]:
                    seconds, its = seconds_of(decoders[name], sequences, tokens)
                    times[name].append(seconds)
                    logits.append(its)
                assert np.array_equal(*logits)
            t2, t5 = (np.array(times[name]) for name in FORMATS)
            found[shape] = {
                "t5_beside_t2": round(float(np.median(t5 / t2)), 3),
                "least_ms": {"t2": round(1e3 * t2.min(), 2), "t5": round(1e3 * t5.min(), 2)},
            }
        source = open_model(options.model)
        tensor = largest_matrix(source)
        race = run_race(tensor, shape_class(tensor, num_ternary_weights(source)), time.process_time)
    result = {"model": options.model.name, "isa": tk.info()["isa"], "steps": found}
    result["race"] = {"seconds": race.seconds, "t5_beside_t2": round(race.ratio("t5"), 3)}
    facts = {"busy_cores_of_others": round(others.cores, 2)} | environment("numpy")
    print(json.dumps(result | facts, indent=2))


if __name__ == "__main__":
    main()
