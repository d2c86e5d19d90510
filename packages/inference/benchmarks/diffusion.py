"""Block decoding beside autoregressive decoding of the same matrices, on one thread. Prints JSON.

    uv run python packages/inference/benchmarks/diffusion.py MODEL --thresholds 0.5 0.9 1

MODEL is whatever the native engine loads. Of a block-diffusion model, figures by threshold say how many
tokens a pass draws. One that is autoregressive (of packages/kernels/benchmarks/random_model.py, say) is
decoded in blocks nevertheless, as if its last token were the mask token: its text means nothing, but with a
threshold of 0 a pass draws a whole sub-block, which says what a model that sure of itself would take.

    passes      processor time of one pass over so many tokens behind a context, in units of a pass over one:
                blocks win where tokens per pass exceed that
    decoding    tokens per pass, and per second of wall and of processor time

Ways take turns, and the median counts, since a machine has other things to do. First, one text is drawn in
blocks of one token by both: if they differ, nothing is reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

import ternary_kernels as tk
from ternary_kernels.packed import load_packed
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import BlockDiffusion
from wf_formats.environment import environment
from wrinklefree_inference.native.loading import load_native_model
from wrinklefree_inference.native.master_weights import quantize_master
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import GenerationRequest, SamplingParams
from wrinklefree_inference.options import EngineOptions

Model = Callable[[BlockDiffusion | None, BlockDecoding], NativeModel]


def model_maker(path: Path, context_tokens: int) -> tuple[Model, BlockDiffusion | None, int]:
    """What makes the model of a kind, what kind it is, and its vocabulary."""
    weights = load_packed(path, quantize_master, None, None, has_screen=True).weights
    loaded = load_native_model(path, EngineOptions(context_tokens=context_tokens, num_threads=1))
    decoders: dict[BlockDiffusion | None, tk.Decoder] = {}

    def make(diffusion: BlockDiffusion | None, decoding: BlockDecoding) -> NativeModel:
        if diffusion not in decoders:
            of_kind = replace(weights, config=replace(weights.config, diffusion=diffusion))
            decoders[diffusion] = tk.Decoder(of_kind, loaded.runner.num_pages, "f16", 1)
        return replace(
            loaded, runner=decoders[diffusion], diffusion=diffusion, decoding=decoding, new_guesser=None
        )

    return make, weights.config.diffusion, weights.config.vocab_size


def answer(model: NativeModel, prompt: list[int], num_tokens: int) -> tuple[list[int], dict[str, float]]:
    """Greedy tokens of an answer, and what they took after the prompt was read."""
    core, events = model.new_core(), SimpleQueue[Any]()
    sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    sequence = model.new_sequence(GenerationRequest(tuple(prompt), sampling, "r"), events)
    core.scheduler.add(sequence)
    while not sequence.num_passes:
        core.step()
    first, passes = sequence.num_generated, sequence.num_passes
    start_s, cpu_s = time.perf_counter(), time.process_time()
    while core.scheduler.has_work:
        core.step()
    wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
    drawn, taken = sequence.num_generated - first, sequence.num_passes - passes
    figures = {
        "tokens_per_pass": drawn / taken,
        "tokens_per_s": drawn / wall_s,
        "tokens_per_cpu_s": drawn / cpu_s,
    }
    return sequence.answer.tolist(), figures


def pass_times_s(decoder: Any, num_rows: list[int], context: int, repeats: int) -> dict[int, float]:
    """Median processor time of a pass over so many tokens, with the logits of one or of a sub-block of 8."""
    pages = np.arange(-(-(context + max(num_rows)) // tk.PAGE_TOKENS), dtype=np.int32)[None]
    rng = np.random.default_rng(0)
    times: dict[int, list[float]] = {rows: [] for rows in num_rows}
    for _ in range(repeats + 1):
        for rows in num_rows:
            tokens = rng.integers(0, 1000, rows).astype(np.int32)
            arrays = ([0, rows], [context])
            outputs = np.arange(min(rows, 8), dtype=np.int32)
            start_s = time.process_time()
            decoder.forward(tokens, *(np.array(array, np.int32) for array in arrays), pages, outputs)
            times[rows].append(time.process_time() - start_s)
    return {rows: statistics.median(found[1:]) for rows, found in times.items()}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    make, stated, vocab = model_maker(args.model, args.context + args.tokens + 64)
    diffusion = stated or BlockDiffusion(args.block_size, vocab - 1)
    ways = {
        f"threshold {threshold:g}, sub-block {sub_block}": (diffusion, BlockDecoding(threshold, sub_block))
        for threshold in args.thresholds
        for sub_block in args.sub_blocks
    }
    everything = {"autoregressive": (None, BlockDecoding()), **ways}
    prompt = np.random.default_rng(1).integers(10, min(vocab, 1000), args.context).tolist()
    one = replace(diffusion, block_size=1, token_shift=True)
    texts = [answer(make(kind, BlockDecoding()), prompt[:20], 8)[0] for kind in (one, None)]
    if texts[0] != texts[1]:
        raise SystemExit("blocks of one token draw another text than the autoregressive model")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in everything}
    for _ in range(args.repeats):
        for name, way in everything.items():
            found[name].append(answer(make(*way), prompt, args.tokens)[1])
    times_s = pass_times_s(make(diffusion, BlockDecoding()).runner, args.rows, args.context, 4 * args.repeats)
    return {
        "is_diffusion_model": stated is not None,
        "block_size": diffusion.block_size,
        "passes": {
            rows: {"ms": 1e3 * time_s, "in_passes_of_one": time_s / times_s[args.rows[0]]}
            for rows, time_s in times_s.items()
        },
        "decoding": {
            name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for name, runs in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--block-size", type=int, default=32, help="of a model that is autoregressive (32)")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0, 0.9])
    parser.add_argument("--sub-blocks", type=int, nargs="+", default=[2, 4, 8, 32])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 8, 16, 32], help="of passes; the first is the unit"
    )
    parser.add_argument("--context", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    settings = {name: str(value) if name == "model" else value for name, value in vars(args).items()}
    print(json.dumps({**measure(args), "settings": settings, **environment("numpy")}, indent=2))


if __name__ == "__main__":
    main()
