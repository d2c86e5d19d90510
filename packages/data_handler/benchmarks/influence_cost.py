"""What sketches of gradients cost beside a training step of the same tokens: time and memory.

    uv run python packages/data_handler/benchmarks/influence_cost.py --models dense,group64 --repeats 3

SmolLM2-135M, dense or converted with a scheme, on one thread, in float32 or in another precision as the
trainer has it (group64:int8); the linears of its blocks (106 million weights), 8,192 numbers of a sketch. In
turns on one batch of Python's reference documentation:

    training_step  forward, next-token loss, backward, fused AdamW
    per_example    a sketch of each sequence
    mean           one of the batch
    mean_scaled    the same over the square root of AdamW's second moments

First it is checked that the mean of the sketches of sequences is that of the batch. Seconds are of the CPU
(medians); --memory measures the peak of a process which does one of them alone. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from bitnet_arch import ConversionConfig, convert, load_dense, quantizer, set_precision
from data_handler.influence import GradientSketcher, SecondMoments
from wf_formats.environment import environment

WORKS = ("training_step", "per_example", "mean", "mean_scaled")


def batch_of(tokenizer: Any, num_sequences: int, num_tokens: int) -> dict[str, Tensor]:
    text = "\n".join(topics.values())
    ids = torch.tensor(tokenizer(text[: 16 * num_sequences * num_tokens])["input_ids"])
    ids = ids[: num_sequences * num_tokens].view(num_sequences, num_tokens)
    return {"input_ids": ids, "labels": ids, "position_ids": torch.arange(num_tokens).expand_as(ids)}


class Arm:
    """A model with its optimizer after one step, and what is timed."""

    def __init__(self, name: str, num_sequences: int, num_tokens: int) -> None:
        self.model, tokenizer = load_dense("packaged")
        self.batch = batch_of(tokenizer, num_sequences, num_tokens)
        scheme, _, precision = name.partition(":")
        if scheme != "dense":
            convert(self.model, ConversionConfig(quantizer(scheme), sub_norm=False))
        if precision:
            set_precision(self.model, precision)
        self.is_mixed = precision not in ("", "float32")
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.sketcher = GradientSketcher(self.model)
        moments = SecondMoments(self.optimizer, self.model)
        self.works: dict[str, Callable[[], Any]] = {
            "training_step": self.step,
            "per_example": lambda: self.sketcher.per_example(self.batch),
            "mean": lambda: self.sketcher.mean(self.batch),
            "mean_scaled": lambda: self.sketcher.mean(self.batch, moments),
        }

    def work(self, name: str) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_mixed):
            self.works[name]()

    def step(self) -> None:
        self.model(**self.batch, use_cache=False).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def check(self) -> float:
        """How far the sketches of sequences are from the batch's, which has as many labels of each."""
        of_batch = self.sketcher.mean(self.batch)
        found = float((self.sketcher.per_example(self.batch).mean(0) - of_batch).norm() / of_batch.norm())
        assert found < 1e-4, found
        return found


def peak_memory(model: str, work: str, options: argparse.Namespace) -> int:
    """Bytes, of a process that does one thing alone."""
    sizes = ["--sequences", str(options.sequences), "--tokens", str(options.tokens)]
    command = [sys.executable, __file__, "--models", model, "--only", work, *sizes]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    arm = Arm(name, options.sequences, options.tokens)
    report: dict[str, Any] = {"weights": arm.sketcher.num_weights}
    if "mean" in options.works.split(","):
        report["difference_of_means"] = arm.check()
    works = options.works.split(",")
    arm.work("training_step")
    times: dict[str, list[float]] = {work: [] for work in works}
    for _ in range(options.repeats):
        for work in works:
            start = time.process_time()
            arm.work(work)
            times[work].append(time.process_time() - start)
    medians = {work: statistics.median(found) for work, found in times.items()}
    num_tokens = options.sequences * options.tokens
    report["works"] = {
        work: {
            "ms_per_token": round(1000 * medians[work] / num_tokens, 3),
            "over_training_step": round(medians[work] / medians["training_step"], 3),
            "seconds": [round(value, 2) for value in times[work]],
        }
        for work in works
    }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default="dense,group64", help="dense or schemes")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--works", default=",".join(WORKS), help="training_step first (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="the peak of each too, in a process of its own")
    parser.add_argument("--only", choices=WORKS, help="do that once and print the peak memory in bytes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        Arm(options.models, options.sequences, options.tokens).work(options.only)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    report: dict[str, Any] = {
        "environment": environment("torch", "transformers"),
        "sequences": options.sequences,
        "tokens": options.tokens,
    }
    for name in options.models.split(","):
        report[name] = measured(name, options)
        if options.memory:
            found = {work: peak_memory(name, work, options) for work in options.works.split(",")}
            report[name]["peak_memory_bytes"] = found
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
