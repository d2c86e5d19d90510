"""The full head and the screened one in turns: processor time of a step, and what the screen leaves.

    python packages/kernels/benchmarks/screened_head.py model.gguf
    python packages/kernels/benchmarks/screened_head.py 2b.gguf --one-stands-out

Each has a decoder of its own with one thread; the same tokens go into both, and both have to say the same
next one. Prompts are random tokens, so answers of a real model are about nothing. In a file of random weights
no token is likelier than others; with `--one-stands-out` what its layers add is made small, so that a state
lies along its token's embedding.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import ternary_kernels as tk
from ternary_kernels._native import pack_screen
from ternary_kernels.screen import directions_of, with_screen
from wf_formats.tokenizer import read_tokenizer

PROMPT_TOKENS = 16


def stands_out(weights: tk.ModelWeights) -> tk.ModelWeights:
    """With directions by chance: there are none to find."""
    hidden = weights.config.hidden_size
    small = np.full(hidden, 1e-3, np.float32)
    layers = [replace(layer, attn_output_norm=small, ffn_output_norm=small) for layer in weights.layers]
    states = np.random.default_rng(0).normal(size=(256, hidden)).astype(np.float32)
    head = weights.embedding if weights.head is None else weights.head
    return replace(weights, layers=layers, screen=pack_screen(head, *directions_of(states, hidden // 24)))


class Arm:
    """One sequence in a decoder."""

    def __init__(self, weights: tk.ModelWeights, count: int) -> None:
        self.decoder = tk.Decoder(weights, num_pages=16, num_threads=1)
        self._reach = np.full(1, count, np.int32), np.zeros(1, np.float32)
        self._context, self.seconds = 0, list[float]()

    def step(self, tokens: np.ndarray) -> int:
        starts, contexts = np.array([0, len(tokens)], np.int32), np.array([self._context], np.int32)
        pages, outputs = np.arange(16, dtype=np.int32)[None], starts[1:] - 1
        start = time.thread_time()
        logits = self.decoder.forward(tokens, starts, contexts, pages, outputs, self._reach)
        if len(tokens) == 1:
            self.seconds.append(time.thread_time() - start)
        self._context += len(tokens)
        return int(logits.argmax())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=100, help="at most 400")
    parser.add_argument("--one-stands-out", action="store_true")
    options = parser.parse_args()
    weights = tk.load_model(options.model)
    weights = (
        stands_out(weights) if options.one_stands_out else with_screen(weights, read_tokenizer(options.model))
    )
    if weights.screen is None:
        parser.error(f"the head of {options.model} is too small for a screen")
    full, screened = Arm(weights, 0), Arm(weights, 1)
    tokens = np.random.default_rng(1).integers(0, weights.config.vocab_size, PROMPT_TOKENS).astype(np.int32)
    for _ in range(options.tokens):
        following = full.step(tokens)
        assert screened.step(tokens) == following
        tokens = np.array([following], np.int32)
    rows, blocks = screened.decoder.screen_use
    seconds = {"full": full.seconds, "screened": screened.seconds}
    print(
        json.dumps(
            {
                "isa": tk.info()["isa"],
                "head_bytes": (weights.head or weights.embedding).num_bytes,
                "screen_bytes": weights.screen.num_bytes,
                "median_ms": {name: 1e3 * float(np.median(values)) for name, values in seconds.items()},
                "least_ms": {name: 1e3 * min(values) for name, values in seconds.items()},
                "screened_rows": rows,
                "share_left": blocks * 16 / weights.config.vocab_size / max(rows, 1),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
