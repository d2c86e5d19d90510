"""What a mask and the other rules for single tokens cost the sampler, beside the same rows without them.

    python packages/kernels/benchmarks/sampler.py > sampler.json

16 rows, as of 16 streams, in one call and one thread. First each masked draw is checked: equal to that of
logits that have -inf where the mask forbids. Then the ways of drawing take turns, with and without rules, and
the median of their times in this thread counts (what other processes take is no part of it):

    none     no rule
    half     every second token, by chance, is forbidden: each block of 128 is mixed
    most     1 in 1000 is forbidden, as inside of a JSON string
    few      1 in 1000 is allowed, as between two values of JSON
    rules    bias of 300 tokens, presence and frequency penalty over an answer of 500

`ratio` is the time over that of `none`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ternary_kernels as tk
from wf_formats.environment import environment

NUM_ROWS = 16
VOCABS = (49_152, 128_256)
WAYS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "draw": {},
    "top_p": {"top_p": 0.95},
    "top_k": {"top_k": 50},
    "min_p": {"min_p": 0.05},
    "logprobs": {"temperature": 0, "num_logprobs": 5},
}
SHARES_ALLOWED = {"half": 0.5, "most": 0.999, "few": 0.001}


def arguments(counter: int, way: dict[str, float]) -> dict[str, Any]:
    """Columns of the sampler for all rows."""

    def column(name: str, default: float, dtype: type) -> NDArray[Any]:
        return np.full(NUM_ROWS, way.get(name, default), dtype)

    return {
        "temperature": column("temperature", 1, np.float32),
        "top_k": column("top_k", 0, np.int32),
        "top_p": column("top_p", 1, np.float32),
        "min_p": column("min_p", 0, np.float32),
        "repetition_penalty": column("repetition_penalty", 1, np.float32),
        "history": [None] * NUM_ROWS,
        "seeds": np.arange(NUM_ROWS, dtype=np.uint64),
        "counters": np.full(NUM_ROWS, counter, np.uint64),
        "num_logprobs": column("num_logprobs", -1, np.int32),
    }


def rules_of(vocab: int, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """By name; the masks with the tokens that they allow."""
    rules: dict[str, dict[str, Any]] = {"none": {}}
    for name, share in SHARES_ALLOWED.items():
        rules[name] = {"masks": [packed(rng.random(vocab) < share) for _ in range(NUM_ROWS)]}
    ids = rng.choice(vocab, 300, replace=False).astype(np.int32)
    rules["rules"] = {
        "bias_ids": [ids] * NUM_ROWS,
        "bias_values": [np.ones(300, np.float32)] * NUM_ROWS,
        "answers": [rng.integers(0, vocab, 500, dtype=np.int32)] * NUM_ROWS,
        "presence_penalty": np.full(NUM_ROWS, 0.5, np.float32),
        "frequency_penalty": np.full(NUM_ROWS, 0.5, np.float32),
    }
    return rules


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Bit i % 32 of word i // 32."""
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.bool_)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.uint32)


def check(logits: NDArray[np.float32], rules: dict[str, dict[str, Any]]) -> None:
    """Raises AssertionError for a mask that draws another token than -inf does."""
    vocab = logits.shape[1]
    for name in SHARES_ALLOWED:
        masks = rules[name]["masks"]
        bits = np.unpackbits(np.stack(masks).view(np.uint8), axis=1, bitorder="little")[:, :vocab]
        forbidden = np.where(bits == 1, logits, -np.inf).astype(np.float32)
        for way in WAYS.values():
            found = tk.sample(logits, **arguments(0, way), masks=masks)[0]
            np.testing.assert_array_equal(found, tk.sample(forbidden, **arguments(0, way))[0])


def measure(vocab: int, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of one call for each way and rule."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (NUM_ROWS, vocab)).astype(np.float32)
    rules = rules_of(vocab, rng)
    check(logits, rules)
    found = []
    for way, options in WAYS.items():
        times_ms: dict[str, list[float]] = {name: [] for name in rules}
        for counter in range(repeats):
            for name, rule in rules.items():
                columns = arguments(counter, options)
                start_s = time.thread_time()
                tk.sample(logits, **columns, **rule)
                times_ms[name].append(1e3 * (time.thread_time() - start_s))
        plain_ms = statistics.median(times_ms["none"])
        for name, times in times_ms.items():
            median_ms = statistics.median(times)
            row = {"vocab": vocab, "way": way, "rule": name, "ms": round(median_ms, 3)}
            found.append(row | {"ratio": round(median_ms / plain_ms, 3)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=101)
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCABS)
    options = parser.parse_args()
    found = [row for vocab in options.vocab for row in measure(vocab, options.repeats)]
    report = {"rows": NUM_ROWS, "repeats": options.repeats, "times": found}
    json.dump(environment("numpy") | report, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
