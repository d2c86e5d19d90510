"""One training step of the converted model on a GPU beside the same step of the dense model in transformers.

    uv run python packages/kernels/benchmarks/training_gpu.py --batch 8 --tokens 1024 > step.json

Arms: `dense:bf16`, SmolLM2-135M under autocast with transformers' own loss, and SCHEME:PRECISION, converted
and run as stage 2 runs it. All do forward, next-token loss, backward and a fused AdamW update on the same
batch, in turns in one process. Before timing, codes, scales and products are checked against the CPU's.
Prints JSON; refuses without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from on_a_gpu import print_measured

ARMS = ("tensor:bf16", "tensor:int8", "group64:bf16", "group64:int8")
DENSE = "dense:bf16"


class Arm:
    """A model on the GPU with its optimizer."""

    def __init__(self, name: str, dense: Any, fit: torch.Tensor) -> None:
        import bitnet_arch

        self.is_dense, self.model = name == DENSE, copy.deepcopy(dense).train()
        if not self.is_dense:
            scheme, _, precision = name.partition(":")
            conversion = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme))
            self.model = bitnet_arch.convert(self.model, conversion, fit)
            bitnet_arch.use_kernels(self.model)
            bitnet_arch.set_precision(self.model, precision)
        self.model = self.model.to("cuda")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        from wrinklefree.cross_entropy import chunked_cross_entropy
        from wrinklefree.forward import run_forward

        with torch.autocast("cuda", torch.bfloat16):
            if self.is_dense:
                return self.model(input_ids=ids, labels=ids).loss
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            found = run_forward(self.model, {"input_ids": ids, "position_ids": positions})
            return chunked_cross_entropy(found.last_hidden_state, found.head_weight, ids, 2048)

    def step(self, ids: torch.Tensor) -> float:
        """Seconds of a whole step, on the GPU's clock."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.loss(ids).backward()
        self.optimizer.step()
        end.record()
        self.optimizer.zero_grad(set_to_none=True)
        end.synchronize()
        return start.elapsed_time(end) / 1000


def check_against_cpu(names: Sequence[str]) -> None:
    """Raises AssertionError: codes or scales that are not the CPU's, or products off by more than 1e-5."""
    import bitnet_arch
    from bitnet_arch.products import int8_matmul

    torch.manual_seed(0)
    weight, x = torch.randn(1536, 576), torch.randn(33, 576)
    for scheme in {name.partition(":")[0] for name in names}:
        quantizer = bitnet_arch.quantizer(scheme)
        made = []
        for device in ("cpu", "cuda"):
            matrix = quantizer.quantize(weight.to(device))
            tokens = quantizer.activation.quantize(x.to(device))
            parts = (matrix.codes, matrix.scales, tokens.codes, int8_matmul(tokens, matrix))
            made.append([part.cpu() for part in parts])
        assert all(torch.equal(here, there) for here, there in zip(made[0][:3], made[1][:3], strict=True))
        assert (made[0][3] - made[1][3]).abs().max() <= 1e-5 * made[0][3].abs().max()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import bitnet_arch
    from wf_formats.environment import environment

    check_against_cpu(options.arms)
    torch.manual_seed(0)
    dense, _ = bitnet_arch.load_dense("packaged")
    fit = torch.randint(dense.config.vocab_size, (8, 256))
    ids = torch.randint(dense.config.vocab_size, (options.batch, options.tokens), device="cuda")
    arms = {name: Arm(name, dense, fit) for name in (DENSE, *options.arms)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(options.repeats + 2):
        for name, arm in arms.items():
            elapsed = arm.step(ids)
            if repeat > 1:  # the first rounds compile and warm up
                seconds[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "benchmark": "training step on a GPU, converted against dense",
        "speed_over": {DENSE: {name: round(medians[DENSE] / value, 2) for name, value in medians.items()}},
        "tokens_per_s": {name: round(ids.numel() / value) for name, value in medians.items()},
        "batch": [options.batch, options.tokens],
        "repeats": options.repeats,
        "kernels": bitnet_arch.kernels.describe(ids.device),
        **environment("torch", "transformers", "triton"),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=ARMS, help=f"default: {' '.join(ARMS)}")
    parser.add_argument("--batch", type=int, default=8, help="sequences")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens per sequence")
    parser.add_argument("--repeats", type=int, default=10)
    return parser.parse_args()


def main() -> None:
    print_measured(measure, parse())


if __name__ == "__main__":
    main()
