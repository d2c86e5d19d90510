"""Perplexity of ternary checkpoints beside their full-precision model's, with and without int8 activations.

    uv run python packages/eval/benchmarks/ternary_perplexity.py --text wikitext_test.jsonl.gz \
        outputs/run/stage1/final outputs/run/stage1_5/final

All models score the same windows of the text, its documents joined by blank lines. "w1.58a8" is the
model as it is deployed; "w1.58" multiplies the same ternary weights with activations in float32, as
papers on weight quantization report. Prints JSON; `ratio` is over the full-precision model.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitnet_arch
from bitnet_arch import BitLinear, BitLinearLRC
from data_handler.readers import read_documents
from wf_formats.environment import environment


class WeightOnly(nn.Module):
    """A BitLinear's ternary weights without its rounding of the input."""

    def __init__(self, layer: BitLinear) -> None:
        super().__init__()
        if isinstance(layer, BitLinearLRC):
            raise SystemExit("a checkpoint with low-rank corrections has no arm without activation rounding")
        self.sub_norm, self.bias = layer.sub_norm, layer.bias
        self.weight = layer.quantizer.quantize(layer.weight).values()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x if self.sub_norm is None else self.sub_norm(x), self.weight, self.bias)


@torch.no_grad()
def perplexity(model: Any, windows: Tensor) -> float:
    """Of windows [count, tokens]; the first token of each is not scored."""
    total = 0.0
    for ids in windows:
        logits = model(input_ids=ids[None]).logits[0, :-1]
        total += F.cross_entropy(logits.float(), ids[1:], reduction="sum").item()
    return math.exp(total / (windows.shape[0] * (windows.shape[1] - 1)))


@torch.no_grad()
def drop_activation_rounding(model: Any) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, BitLinear):
            model.set_submodule(name, WeightOnly(module))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, help="folders of stages 1, 1.5, ...")
    parser.add_argument("--dense", default="packaged", help="packaged, hub:ID or path:FOLDER")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=None, help="only the first; default: all")
    args = parser.parse_args()
    source, _, name = args.dense.partition(":")
    dense, tokenizer = bitnet_arch.load_dense(source, name or None)
    text = "".join(document + "\n\n" for document in read_documents(args.text))
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[0]
    count = len(ids) // args.context
    windows = ids[: count * args.context].view(count, args.context)[: args.windows]
    start = time.perf_counter()
    full = perplexity(dense, windows)
    del dense
    found: dict[str, Any] = {}
    for folder in args.checkpoints:
        model = bitnet_arch.load_checkpoint(folder, dtype=torch.float32).model
        rounded = perplexity(model, windows)
        drop_activation_rounding(model)
        weight_only = perplexity(model, windows)
        found[str(folder)] = {"w1.58a8": rounded, "ratio": rounded / full, "w1.58": weight_only}
    result = {
        "text": args.text.name,
        "windows": list(windows.shape),
        "full_precision": full,
        "checkpoints": found,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start),
        **environment("torch", "transformers"),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
