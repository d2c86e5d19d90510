"""Conversations that a chat model writes by itself: text of the form it will read, without any data.

Given nothing but the opening of a user's turn, an instruction-tuned model writes a user's question and
goes on with its own answer (Magpie; Xu et al. 2024, arXiv 2406.08464). Where the model is its own
teacher, as in calibration and distillation, such text is all that is needed of "its" distribution.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from wf_formats.atomic import atomic_write_bytes
from wf_formats.boundary import boundary
from wf_formats.chat_template import ChatTemplate
from wf_formats.packaged import ModelSource
from wrinklefree.command_line import refuse_below_one
from wrinklefree.dense import load_dense_model
from wrinklefree.errors import RunError

_USER_TEXT = "WHAT_THE_USER_SAYS"
_NGRAM = 4
_MIN_DISTINCT = 0.6
"""Share of distinct runs of `_NGRAM` tokens below which a conversation has fallen into a loop."""


def opening(tokenizer: Any) -> str:
    """What the chat template writes before a user's first words.

    Raises:
        RunError: the tokenizer has no chat template.
        ChatTemplateError: the template is damaged, or beyond the limits of time and memory.
    """
    if not tokenizer.chat_template:
        raise RunError("the model has no chat template: it is not a chat model; calibrate it on plain text")
    template = ChatTemplate(tokenizer.get_chat_template(), tokenizer.special_tokens_map)
    rendered = template.render([{"role": "user", "content": _USER_TEXT}], add_generation_prompt=False)
    return rendered.partition(_USER_TEXT)[0]


def is_loop(ids: Sequence[int]) -> bool:
    runs = list(zip(*(ids[i:] for i in range(_NGRAM)), strict=False))
    return len(set(runs)) < _MIN_DISTINCT * len(runs)


@torch.inference_mode()
def write_conversations(
    model: Any, tokenizer: Any, num_tokens: int, batch_size: int, seed: int
) -> Iterator[list[str]]:
    """Batches of conversations in the chat template's form, without end.

    Left out are those that fell into a loop, and those with links, which the model makes up.

    Args:
        num_tokens: written to each opening, whatever turns that makes; the last one is cut off.
        batch_size: conversations that are written together.
        seed: of torch's sampling.
    Raises:
        RunError: the tokenizer has no chat template.
    """
    start = tokenizer(opening(tokenizer), return_tensors="pt", add_special_tokens=False).input_ids
    torch.manual_seed(seed)
    while True:
        ids: Tensor = model.generate(
            start.expand(batch_size, -1).contiguous(),
            attention_mask=torch.ones(batch_size, start.shape[1], dtype=torch.long),
            do_sample=True,
            temperature=1.0,
            top_p=0.9,
            top_k=0,
            max_new_tokens=num_tokens,
            eos_token_id=None,  # the end of a turn, after which the next one comes
            pad_token_id=0,
            cache_implementation="static",  # a cache that grows is copied at every token
        )
        written = [row for row in ids.tolist() if not is_loop(row[start.shape[1] :])]
        yield [text for text in tokenizer.batch_decode(written) if "://" not in text]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    refuse_below_one(parser, options, "conversations", "tokens", "batch_size")
    with boundary():
        _run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Let a chat model write conversations with itself, to calibrate or distil it on.",
        epilog="example: write_chat.py --source path --name ./Qwen3-0.6B --output chat.jsonl.gz "
        "--conversations 600; then data.sources=[{kind: path, name: chat, location: chat.jsonl.gz}]",
    )
    parser.add_argument("--output", type=Path, required=True, help="a .jsonl or .jsonl.gz file to write")
    parser.add_argument("--source", type=ModelSource, default=ModelSource.packaged, choices=list(ModelSource))
    parser.add_argument("--name", help="folder or hub id of the model")
    parser.add_argument("--conversations", type=int, default=512, help="how many are written (default: 512)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each (default: 256)")
    parser.add_argument("--batch-size", type=int, default=64, help="written together (default: 64)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _run(options: argparse.Namespace) -> None:
    model, tokenizer = load_dense_model(options.source, options.name, getattr(torch, options.dtype))
    batches = write_conversations(model, tokenizer, options.tokens, options.batch_size, options.seed)
    num_batches = -(-options.conversations // options.batch_size)
    found: list[str] = []
    for _ in track(range(num_batches), description="writing conversations"):
        found += next(batches)
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found)
    data = lines.encode()
    packed = gzip.compress(data, mtime=0) if options.output.suffix == ".gz" else data
    atomic_write_bytes(options.output, packed)
    sys.stdout.write(f"{len(found)} conversations of {options.tokens} tokens in {options.output}\n")
