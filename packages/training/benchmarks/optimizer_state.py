"""The update of SmolLM2-135M's weights by AdamW with its moments in each kind, beside others' optimizers.

    uv run python packages/training/benchmarks/optimizer_state.py --repeats 9 > state.json

Arms take turns on the same gradients, each on weights of its own: PyTorch's fused AdamW (the peer), float32,
bf16 and int8 moments of `ternary_kernels`, and bitsandbytes' 8-bit AdamW. Before timing, the first update of
each is compared with PyTorch's in float64. Prints JSON:

    milliseconds        medians
    speed_over_fused    ratio of medians
    bytes_of_state      moments, with what their coding needs
    share               least time, by the measured bandwidth of memory, over the time taken: weights,
                        gradients and moments are read, weights and moments written
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitnet_arch import load_dense
from ternary_kernels import _native, training
from wf_formats.environment import environment
from wrinklefree.compact_adamw import CompactAdamW
from wrinklefree.config.optimizer import MomentKind

RATE, BETAS, EPS = 1e-4, (0.9, 0.95), 1e-8


class Float32Moments:
    """The kernels' own float32 moments, which the trainer leaves to PyTorch."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.weights, self.num_steps = weights, 0
        self.moments = [[training.new_moment(w, torch.float32) for w in weights] for _ in range(2)]

    @torch.no_grad()
    def step(self) -> None:
        self.num_steps += 1
        count = len(self.weights)
        training.adamw(
            self.weights,
            [weight.grad for weight in self.weights if weight.grad is not None],
            *self.moments,
            list(range(count)),
            [self.num_steps] * count,
            [RATE] * count,
            [0.0] * count,
            *BETAS,
            EPS,
        )

    def state_tensors(self) -> Iterable[Tensor]:
        return (moment for moments in self.moments for moment in moments)


@dataclass
class Arm:
    weights: list[nn.Parameter]
    step: Callable[[], object]
    state: Callable[[], Iterable[Tensor]]

    @property
    def state_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.state() if tensor.numel() > 1)

    @property
    def moved_bytes(self) -> int:
        return sum(3 * weight.nbytes for weight in self.weights) + 2 * self.state_bytes

    def seconds(self) -> float:
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start


def tensors_of(optimizer: torch.optim.Optimizer) -> Callable[[], Iterable[Tensor]]:
    return lambda: (
        value
        for state in optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, Tensor) and not key.startswith("qmap")  # one table for all
    )


def build(name: str, initial: list[Tensor], grads: list[Tensor]) -> Arm:
    weights = [nn.Parameter(tensor.clone()) for tensor in initial]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad
    if name == "kernels float32":
        plain = Float32Moments(weights)
        return Arm(weights, plain.step, plain.state_tensors)
    optimizer = _optimizer(name, weights)
    return Arm(weights, optimizer.step, tensors_of(optimizer))


def _optimizer(name: str, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    if name == "torch fused":
        return torch.optim.AdamW(weights, RATE, BETAS, EPS, weight_decay=0, fused=True)
    if name == "bitsandbytes 8 bits":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for CUDA and says so
            import bitsandbytes
        optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            weights, lr=RATE, betas=BETAS, eps=EPS, weight_decay=0
        )
        return optimizer
    groups = [{"params": [(str(i), w) for i, w in enumerate(weights)], "weight_decay": 0.0}]
    return CompactAdamW(groups, RATE, BETAS, EPS, MomentKind(name))


def worst_first_update(arm: Arm, initial: list[Tensor], grads: list[Tensor]) -> float:
    """Largest error of the first update, beside one of RATE: g / (|g| + eps) in float64."""
    arm.step()
    worst = 0.0
    for weight, start, grad in zip(arm.weights, initial, grads, strict=True):
        exact = start.double() - RATE * grad.double() / (grad.double().abs() + EPS)
        worst = max(worst, ((weight.detach().double() - exact).abs().max() / RATE).item())
    return worst


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dense, _ = load_dense("packaged")
    initial = [parameter.detach() for parameter in dense.parameters()]
    grads = [torch.randn_like(tensor) * 1e-3 for tensor in initial]
    names = ("torch fused", "kernels float32", "bf16", "int8", "bitsandbytes 8 bits")
    arms = {name: build(name, initial, grads) for name in names}
    errors = {name: worst_first_update(arm, initial, grads) for name, arm in arms.items()}
    assert all(error < 0.01 for error in errors.values()), errors
    memory = max(_native.measure_bandwidth(512 << 20, 1, options.threads, 5))
    seconds = {name: [] for name in names}  # type: dict[str, list[float]]
    for _ in range(options.repeats):
        for name, arm in arms.items():
            seconds[name].append(arm.seconds())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fused = medians["torch fused"]
    report = {
        "benchmark": "AdamW's update of SmolLM2-135M by kind of moments",
        "weights": sum(tensor.numel() for tensor in initial),
        "milliseconds": {name: round(1e3 * value, 1) for name, value in medians.items()},
        "speed_over_fused": {name: round(fused / value, 2) for name, value in medians.items()},
        "bytes_of_state": {name: arm.state_bytes for name, arm in arms.items()},
        "share": {name: round(arm.moved_bytes / memory / medians[name], 2) for name, arm in arms.items()},
        "memory_gb_per_s": round(memory / 1e9, 1),
        "largest_error_of_first_update": errors,
        "threads": options.threads,
        "repeats": options.repeats,
        "kernels": training.describe(),
        **environment("torch", "bitsandbytes"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
