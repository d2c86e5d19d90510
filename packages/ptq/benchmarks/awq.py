"""4-bit weights of SmolLM2-135M-Instruct: full precision, rounded to nearest, AWQ, on real text.

    uv run python packages/ptq/benchmarks/awq.py --data ../shared/data --schemes int4-group64,int4-group32

Calibrated on ordinary text (Wikipedia, FineWeb, OpenStax, C4, books), none of which is WikiText. Perplexity
of each text's first windows of 1,024 tokens, documents joined by an empty line. Prints a line of JSON for
each model: perplexities, minutes of processor time, the exponents that were chosen on average.

The packaged weights were 4-bit codes of groups of 32 with an offset before: schemes of groups of 32 with zero
points are close to that grid, and lose less here than on other models.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import bitnet_arch
import wf_ptq
from data_handler import SourceConfig, token_block

PARTS = {"wikipedia": 3, "fineweb": 2, "openstax": 2, "fineweb_edu": 1, "c4": 1, "books": 1}
TEXTS = {"wikitext2_raw": "test", "fineweb": "validation", "openstax": "validation"}
WINDOW_TOKENS, LENGTH_TOKENS = 1024, 512


class Store(dict[str, tuple[dict[str, Tensor], dict[str, Any]]]):
    """Keeps finished blocks in memory."""

    def save(self, name: str, tensors: Mapping[str, Tensor], report: Mapping[str, Any]) -> None:
        self[name] = dict(tensors), dict(report)

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self[name]


def windows_of(path: Path, tokenizer: Any, num_windows: int) -> Tensor:
    with gzip.open(path, "rt") as file:
        text = "\n\n".join(json.loads(line)["text"] for _, line in zip(range(2000), file, strict=False))
    ids = tokenizer(text[: num_windows * WINDOW_TOKENS * 8], return_tensors="pt").input_ids[0]
    return ids[: num_windows * WINDOW_TOKENS].view(num_windows, WINDOW_TOKENS)  # type: ignore[no-any-return]


@torch.no_grad()
def perplexity(model: Any, ids: Tensor) -> float:
    losses = [model(row.unsqueeze(0), labels=row.unsqueeze(0)).loss.item() for row in ids]
    return float(torch.tensor(losses).mean().exp())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--schemes", default="int4-group64,int4-group32")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--search-tokens", type=int, default=4096)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--texts", default=",".join(TEXTS))
    parser.add_argument("--clips", type=int, default=10)
    args = parser.parse_args()
    folder = bitnet_arch.packaged_model_dir()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    pretrain = args.data / "pretrain"
    texts = {
        name: windows_of(pretrain / name / f"{split}.jsonl.gz", tokenizer, args.windows)
        for name, split in TEXTS.items()
        if name in args.texts.split(",")
    }
    sources = [
        SourceConfig("path", name, str(pretrain / name / "train.jsonl.gz"), weight=weight)
        for name, weight in PARTS.items()
    ]
    ids = token_block(sources, tokenizer, args.tokens, LENGTH_TOKENS)

    def tell(name: str, model: Any, **more: Any) -> None:
        found = {text: round(perplexity(model, windows), 3) for text, windows in texts.items()}
        print(json.dumps({"model": name, **found, **more}), flush=True)

    tell("full precision", dense)
    for scheme in args.schemes.split(","):
        model = copy.deepcopy(dense)
        bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme)))
        model.requires_grad_(False)
        tell(f"{scheme}, rounded", model)
        start_s = time.process_time()
        options = wf_ptq.AwqOptions(
            num_search_sequences=args.search_tokens // LENGTH_TOKENS, num_clips=args.clips
        )
        method = wf_ptq.AwqMethod.of(model, options)
        reports = [report for _, report in wf_ptq.walk_blocks(model, dense, ids, method, Store(), 0)]
        minutes = (time.process_time() - start_s) / 60
        exponents = {
            site: round(fmean(report["exponents"][site] for report in reports), 2)
            for site in reports[0]["exponents"]
        }
        streams = {key: round(reports[-1][key], 4) for key in ("stream_rounded", "stream")}
        tell(f"{scheme}, awq", model, minutes=round(minutes, 1), exponents=exponents, **streams)


if __name__ == "__main__":
    main()
