"""What a step of the native engine costs besides the decoder, the sampler and the tokenizer.

The decoder and the sampler are empty here: each sequence goes on with a constant token. Prints JSON:

    python packages/inference/benchmarks/scheduler.py --sequences 16 --prompt-tokens 1500 --steps 500
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from queue import SimpleQueue
from typing import Any

import numpy as np

from wf_formats.environment import environment
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.inbox import Inbox
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import GenerationRequest, SamplingParams
from wrinklefree_inference.options import QueueOptions


class NoDecoder:
    """Returns logits without computing them."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages

    def forward(
        self, tokens: Any, starts: Any, contexts: Any, pages: Any, outputs: Any, reach: Any = None
    ) -> Any:
        return np.empty((len(outputs), 1), np.float32)

    def hidden_states(self, rows: Any) -> Any:
        return np.ones((len(rows), 1), np.float32)


class NoTokenizer:
    """Every token is one letter."""

    eos_ids: frozenset[int] = frozenset()

    def token_bytes(self, token_id: int) -> bytes:
        return b"a"

    def push(self, token_id: int) -> str:
        return "a"

    def flush(self) -> str:
        return ""


def no_sample(logits: Any, *_params: Any) -> Any:
    """Token 7 for everybody."""
    rows = len(logits)
    return np.full(rows, 7, np.int32), np.zeros(rows, np.float32), [], []


def new_model(pages: int) -> NativeModel:
    tokenizer: Any = NoTokenizer()
    return NativeModel("none", NoDecoder(pages), tokenizer, lambda: tokenizer, no_sample, 1 << 20, 1 << 20, 1)


def requests_of(args: argparse.Namespace) -> list[GenerationRequest]:
    rng = np.random.default_rng(0)
    sampling = SamplingParams(max_tokens=args.steps, seed=1)
    return [
        GenerationRequest(tuple(rng.integers(10, 1000, args.prompt_tokens).tolist()), sampling, str(i))
        for i in range(args.sequences)
    ]


def measure_steps(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of the parts of a step in which all sequences are streams."""
    model = new_model(args.sequences * ((args.prompt_tokens + args.steps) // 32 + 2))
    core = model.new_core(QueueOptions(max_running=args.sequences, max_batch_tokens=4096))
    for request in requests_of(args):
        core.scheduler.add(model.new_sequence(request, SimpleQueue()))
    while any(s.num_pending > 1 for s in core.scheduler.running) or not core.scheduler.running:
        core.step()
    counters, times_s = core.counters, []
    before = (counters.forward_s, counters.sample_s, counters.text_s)
    while len(core.scheduler.running) == args.sequences:
        start_s = time.perf_counter()
        core.step()
        times_s.append(time.perf_counter() - start_s)
    spent = [
        b - a for a, b in zip(before, (counters.forward_s, counters.sample_s, counters.text_s), strict=True)
    ]
    ms = [1e3 * seconds / len(times_s) for seconds in spent]
    total_ms = 1e3 * statistics.mean(times_s)
    return {
        "step_mean_ms": total_ms,
        "step_median_ms": 1e3 * statistics.median(times_s),
        "step_p99_ms": 1e3 * statistics.quantiles(times_s, n=100)[98],
        "empty_forward_ms": ms[0],
        "empty_sample_ms": ms[1],
        "text_and_deltas_ms": ms[2],
        "scheduling_and_arrays_ms": total_ms - sum(ms),
        "steps": len(times_s),
    }


async def measure_engine(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a step with the worker thread and a reader for each stream in the event loop."""
    model = new_model(args.sequences * ((args.prompt_tokens + args.steps) // 32 + 2))
    engine = AsyncNativeEngine(model, QueueOptions(max_running=args.sequences, max_batch_tokens=4096))

    async def read(request: GenerationRequest) -> int:
        inbox, num_deltas = Inbox(), 0
        engine.submit_to(inbox, 0, request)
        while True:
            for _, event in await inbox.take():
                if isinstance(event, EngineError):
                    raise event
                num_deltas += 1
                if event.finish_reason is not None:
                    return num_deltas

    start_s = time.perf_counter()
    deltas = await asyncio.gather(*map(read, requests_of(args)))
    total_s = time.perf_counter() - start_s
    steps = engine.stats().steps_total
    await engine.close()
    return {"wall_per_step_ms": 1e3 * total_s / steps, "steps": steps, "deltas": sum(deltas)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    report = {
        **environment("numpy"),
        "settings": vars(args),
        "steps": measure_steps(args),
        "engine": asyncio.run(measure_engine(args)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
