"""One training step of the converted model beside the same step of the dense model in transformers.

    uv run python packages/training/benchmarks/training_step.py --repeats 5 > step.json
    uv run python packages/training/benchmarks/training_step.py --arms dense:float32,group64:int8 --batch 2

An arm is MODEL:PRECISION. `dense` is SmolLM2-135M with transformers' own loss, in float32 or under autocast
to bfloat16; the others are converted with that scheme and run as stage 2 runs them. All do forward,
next-token loss, backward and a fused AdamW update on the same batch, in turns in one process. Before timing,
each quantized forward pass is checked against float64. Prints JSON:

    speed_over     ratio of medians to each dense arm
    peak_memory    of a process of its own, over that of dense:float32
    share          least time, by the machine's measured limits, over the time taken

Limits: int8 and float32 multiply-adds on registers, bfloat16 ones of PyTorch's best product, bandwidth of
memory. The least time counts the products, each at its precision's limit, and the bytes of the update.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import torch

import bitnet_arch
from bitnet_arch import ConversionConfig, bit_linears, convert, load_dense, quantizer
from ternary_kernels import _native
from wf_formats.environment import environment
from wrinklefree.cross_entropy import chunked_cross_entropy
from wrinklefree.forward import run_forward

ARMS = "dense:float32,dense:bf16,tensor:bf16,tensor:int8,group64:bf16,group64:int8"
CHUNK_TOKENS = 512
UPDATE_BYTES = 28
"""Of one weight: weight, gradient and two moments read, weight and moments written."""


@dataclass(frozen=True)
class Batch:
    ids: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, tokenizer: Any, num_sequences: int, num_tokens: int) -> Batch:
        """Python's reference documentation, which every installation has."""
        text = "\n".join(topics.values())
        ids = torch.tensor(tokenizer(text[: 16 * num_sequences * num_tokens])["input_ids"])
        ids = ids[: num_sequences * num_tokens].view(num_sequences, num_tokens)
        return cls(ids, torch.arange(num_tokens).expand_as(ids))


class Arm:
    """A model with its optimizer, whose `step` is timed."""

    def __init__(self, name: str, dense: Any, fit: Batch) -> None:
        kind, _, precision = name.partition(":")
        self.name, self.is_dense, self.precision = name, kind == "dense", precision
        self.model = copy.deepcopy(dense).train()
        if not self.is_dense:
            self.model = convert(self.model, ConversionConfig(quantizer(kind)), fit.ids)
            bitnet_arch.use_kernels(self.model)
            bitnet_arch.set_precision(self.model, precision)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def loss(self, batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision != "float32"):
            if self.is_dense:
                return self.model(input_ids=batch.ids, labels=batch.ids).loss
            found = run_forward(self.model, {"input_ids": batch.ids, "position_ids": batch.positions})
            return chunked_cross_entropy(found.last_hidden_state, found.head_weight, batch.ids, CHUNK_TOKENS)

    def step(self, batch: Batch) -> float:
        """Seconds of a whole step."""
        start = time.perf_counter()
        self.loss(batch).backward()
        self.optimizer.step()
        end = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        return end - start

    def multiply_adds(self, batch: Batch) -> dict[str, float]:
        """Of one step's products, by what they are computed in."""
        tokens = batch.ids.numel()
        forward, backward = {
            "float32": ("int8", "float32"),
            "bf16": ("int8", "bf16"),
            "int8": ("int8", "int8"),
        }[self.precision]
        rest = "float32" if self.precision == "float32" else "bf16"
        if self.is_dense:
            forward = backward = rest
        config = self.model.config
        found = dict.fromkeys(("float32", "bf16", "int8"), 0.0)
        blocks = sum(p.numel() for p in self.model.model.layers.parameters() if p.dim() == 2)
        found[forward] += tokens * blocks
        found[backward] += 2 * tokens * blocks
        scores = tokens * batch.ids.shape[1] * config.num_attention_heads * config.head_dim
        found[rest] += 3 * tokens * config.vocab_size * config.hidden_size
        found[rest] += 6 / 2 * scores * config.num_hidden_layers  # half of the scores are masked
        return found


def worst_error(arm: Arm) -> float:
    """Of the first block's quantized forward products, relative to the largest output, in float64."""
    worst = 0.0
    for _, layer in list(bit_linears(arm.model))[:7]:
        x = layer.activation.quantize(torch.randn(32, layer.in_features))
        weight = layer.quantizer.quantize(layer.weight)
        exact = x.values().double() @ weight.values().double().t()
        found = layer.quantizer.product(x, weight, torch.float32)
        worst = max(worst, ((found - exact).abs().max() / exact.abs().max()).item())
    return worst


def limits(threads: int) -> dict[str, float]:
    """Multiply-adds per second of each precision, bytes per second of memory; the best of a few repeats."""

    def bf16() -> float:
        x, y = (torch.randn(1024, 1024, dtype=torch.bfloat16) for _ in range(2))
        return 2**30 / min(_timed(lambda: x @ y) for _ in range(20))

    peaks = {kind: max(_native.measure_peak(kind, 2_000_000, threads, 5)) for kind in ("int8", "float32")}
    memory = max(_native.measure_bandwidth(512 << 20, 1, threads, 5))
    return peaks | {"bf16": bf16(), "memory": memory}


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def share_of_limits(arm: Arm, batch: Batch, seconds: float, peaks: dict[str, float]) -> float:
    weights = sum(p.numel() for p in arm.model.parameters())
    least = sum(count / peaks[kind] for kind, count in arm.multiply_adds(batch).items())
    return (least + UPDATE_BYTES * weights / peaks["memory"]) / seconds


def peak_memory(arm: str, options: argparse.Namespace) -> int:
    """Bytes resident at most in a process that takes two steps."""
    command = [sys.executable, __file__, "--memory-of", arm, "--threads", str(options.threads)]
    command += ["--batch", str(options.batch), "--tokens", str(options.tokens)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arms", default=ARMS, help=f"separated by commas (default: {ARMS})")
    parser.add_argument("--batch", type=int, default=4, help="sequences")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dense, tokenizer = load_dense("packaged")
    batch, fit = (Batch.of(tokenizer, *size) for size in ((options.batch, options.tokens), (8, 256)))
    if options.memory_of:
        arm = Arm(options.memory_of, dense, fit)
        del dense
        for _ in range(2):
            arm.step(batch)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    names = options.arms.split(",")
    memory = {} if options.no_memory else {name: peak_memory(name, options) for name in names}
    arms = [Arm(name, dense, fit) for name in names]
    errors = {arm.name: worst_error(arm) for arm in arms if not arm.is_dense}
    assert all(error < 1e-5 for error in errors.values()), errors
    peaks = limits(options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(options.repeats + 1):
        for arm in arms:
            elapsed = arm.step(batch)
            if repeat:  # the first round warms up
                seconds[arm.name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    references = [arm.name for arm in arms if arm.is_dense]
    report = {
        "benchmark": "training step, converted against dense",
        "speed_over": {
            reference: {name: round(medians[reference] / value, 2) for name, value in medians.items()}
            for reference in references
        },
        "peak_memory": {name: round(value / memory[names[0]], 3) for name, value in memory.items()},
        "share": {arm.name: round(share_of_limits(arm, batch, medians[arm.name], peaks), 2) for arm in arms},
        "tokens_per_s": {name: round(batch.ids.numel() / value, 1) for name, value in medians.items()},
        "limits_per_s": {name: f"{value:.3g}" for name, value in peaks.items()},
        "max_relative_error": errors,
        "batch": [options.batch, options.tokens],
        "threads": options.threads,
        "repeats": options.repeats,
        "kernels": bitnet_arch.kernels.describe(torch.device("cpu")),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **environment("torch", "transformers"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
