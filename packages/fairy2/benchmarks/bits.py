"""Perplexity of SmolLM2-135M-Instruct with weights of one, log2(3) and two bits, real and complex.

    uv run --package wrinklefree-fairy2 python packages/fairy2/benchmarks/bits.py --data ../shared/data

Each arm is rounded, and calibrated with the same text, seeds and options: codes and scales chosen block by
block (wf_ptq), with `--refine-steps` of gradients a block, without distillation. No arm has SubLN;
activations are int8. Perplexity is that of WikiText-2 test, of which the calibration reads nothing. Prints a
line of JSON for each arm when it is done, with processor seconds, which others on the machine hardly change.
`--save FOLDER` keeps the calibrated checkpoints, which `wf train -s 3 training.start_from=FOLDER/SCHEME`
distils.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor

import bitnet_arch
import wf_ptq
from bitnet_arch.families import blocks
from data_handler import SourceConfig, token_block
from wf_formats.environment import environment
from wrinklefree.held_out import mean_loss

ARMS = {
    "tensor": math.log2(3),
    "group64": math.log2(3) + 16 / 64,
    "fairy2-w1": 1.0,
    "levels4": 2.0,
    "fairy2-w2": 2.0,
}
"""Scheme -> bits a weight of the blocks' linears; scales of whole matrices (at most 8) left out."""
TEXTS = {"wikipedia": 3, "fineweb": 2, "openstax": 2, "books": 1}
"""Parts of the mixture."""


class Blocks(dict[str, Any]):
    """A `wf_ptq.BlockStore` in memory."""

    def save(self, name: str, tensors: Any, report: Any) -> None:
        self[name] = {key: value.clone() for key, value in tensors.items()}, dict(report)

    def load(self, name: str) -> Any:
        return self[name]


def measured(
    scheme: str, dense: Any, tokenizer: Any, ids: Tensor, windows: Tensor, args: argparse.Namespace
) -> dict[str, Any]:
    """Perplexities and errors of one arm."""
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme), sub_norm=False)
    model = bitnet_arch.convert(copy.deepcopy(dense), config).requires_grad_(False)
    for _, block in list(blocks(model))[args.blocks :]:
        bitnet_arch.set_lambda(block, 0.0)
    rounded = math.exp(mean_loss(model, windows))
    options = wf_ptq.BlockOptions(
        num_moment_sequences=len(ids),
        solve=wf_ptq.SolveOptions(num_sweeps=args.sweeps),
        refine=wf_ptq.RefineOptions(num_steps=args.refine_steps),
    )
    start = time.process_time()
    walk = wf_ptq.walk_blocks(model, dense, ids, wf_ptq.TernaryMethod(options), Blocks(), seed=0)
    reports = [report for _, report in itertools.islice(walk, args.blocks)]
    seconds = time.process_time() - start
    if args.save:
        bitnet_arch.save_checkpoint(model, tokenizer, args.save / scheme, {"stage": "stage1_5"})
    return {
        "scheme": scheme,
        "bits_per_weight": ARMS[scheme],
        "rounded": rounded,
        "calibrated": math.exp(mean_loss(model, windows)),
        "naive_error": mean([error for report in reports for error in report["naive"].values()]),
        "solved_error": mean([error for report in reports for error in report["solved"].values()]),
        "stream_error": reports[-1]["stream"],
        "processor_s": seconds,
    }


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def read(location: Path, name: str, weight: int = 1) -> SourceConfig:
    return SourceConfig("path", name, str(location), weight=weight)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/<name>/*.jsonl.gz")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    parser.add_argument("--tokens", type=int, default=16384, help="of calibration (default: 16384)")
    parser.add_argument("--windows", type=int, default=20, help="of 512 tokens (default: 20)")
    parser.add_argument("--blocks", type=int, help="quantize the first alone (default: all)")
    parser.add_argument("--sweeps", type=int, default=4, help="of coordinate descent (default: 4)")
    parser.add_argument("--refine-steps", type=int, default=0, help="a block (default: 0)")
    parser.add_argument("--save", type=Path, help="folder of the calibrated checkpoints")
    args = parser.parse_args()
    texts = args.data / "pretrain"
    dense, tokenizer = bitnet_arch.load_dense("packaged")
    dense = dense.float().requires_grad_(False)
    sources = [read(texts / name / "train.jsonl.gz", name, weight) for name, weight in TEXTS.items()]
    ids = token_block(sources, tokenizer, args.tokens, 256, 0)
    test = [read(texts / "wikitext2_raw" / "test.jsonl.gz", "wikitext2")]
    windows = token_block(test, tokenizer, args.windows * 512, 512, 0)
    found = {"dense": math.exp(mean_loss(dense, windows)), "tokens": ids.numel(), "windows": args.windows}
    found["blocks"] = args.blocks or dense.config.num_hidden_layers
    print(json.dumps(found | environment("torch", "transformers")), flush=True)
    for scheme in args.arms:
        print(json.dumps(measured(scheme, dense, tokenizer, ids, windows, args)), flush=True)


if __name__ == "__main__":
    main()
