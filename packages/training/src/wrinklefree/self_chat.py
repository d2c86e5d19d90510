"""Conversations that a chat model writes: text of the form it will read.

Given nothing but the opening of a user's turn, an instruction-tuned model writes a user's question and
goes on with its own answer (Magpie; Xu et al. 2024, arXiv 2406.08464). Given questions, it answers them
(distillation on sequences of the teacher; Kim and Rush 2016, arXiv 1606.07947). Where the model is its own
teacher, as in calibration and distillation, such text is all that is needed of "its" distribution.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from data_handler.errors import DataRequestError
from data_handler.formats import FORMATS, TEXT, Message
from data_handler.readers import check_document_file, read_conversations, read_documents
from wf_formats.atomic import atomic_write_bytes
from wf_formats.boundary import boundary, given_path
from wf_formats.chat_template import ChatTemplate
from wf_formats.packaged import ModelSource
from wrinklefree.command_line import refuse_below_one
from wrinklefree.dense import load_dense_model
from wrinklefree.drawing import end_ids, exceeded_context, left_padded, place_of_end
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
    messages = [{"role": "user", "content": _USER_TEXT}]
    return _template(tokenizer).render(messages, add_generation_prompt=False).partition(_USER_TEXT)[0]


def _template(tokenizer: Any) -> ChatTemplate:
    if not tokenizer.chat_template:
        raise RunError("the model has no chat template: it is not a chat model; calibrate it on plain text")
    return ChatTemplate(tokenizer.get_chat_template(), tokenizer.special_tokens_map)


def is_loop(ids: Sequence[int]) -> bool:
    runs = list(zip(*(ids[i:] for i in range(_NGRAM)), strict=False))
    return len(set(runs)) < _MIN_DISTINCT * len(runs)


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
    start = tokenizer(opening(tokenizer), add_special_tokens=False).input_ids
    torch.manual_seed(seed)
    while True:
        # a turn's end ends nothing: the next turn comes behind it
        written = _drawn(model, [start] * batch_size, num_tokens, top_p=0.9, eos_token_id=None)
        yield _kept(tokenizer.decode(start + ids) for ids in written if not is_loop(ids))


def write_answers(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Sequence[Message]],
    num_tokens: int,
    batch_size: int,
    temperature: float,
    seed: int,
) -> Iterator[list[str]]:
    """Batches of conversations in the chat template's form: what was asked, and the model's answer.

    Questions of one length are answered together, so they come in another order. Left out are empty
    answers and those that `write_conversations` leaves out; one that is cut off at `num_tokens` has no end of
    its turn.

    Args:
        questions: messages of each, the last one a user's.
        temperature: of the sampling, from the whole distribution.
    Raises:
        RunError: the tokenizer has no chat template.
        DataRequestError: a question leaves no room for the answer.
    """
    template, ends = _template(tokenizer), end_ids(model)
    prompts = [template.render(messages, add_generation_prompt=True) for messages in questions]
    ids = tokenizer(prompts, add_special_tokens=False).input_ids
    rows = sorted(zip(ids, questions, strict=True), key=lambda row: len(row[0]))
    _check_context(model, len(rows[-1][0]), num_tokens)
    torch.manual_seed(seed)
    for first in range(0, len(rows), batch_size):
        starts, asked = zip(*rows[first : first + batch_size], strict=True)
        texts = []
        how = {"temperature": temperature, "eos_token_id": sorted(ends) or None}
        answers = _drawn(model, starts, num_tokens, **how)
        for start, messages, answer in zip(starts, asked, answers, strict=True):
            end = place_of_end(answer, ends)
            if end == 0 or is_loop(answer[:end]):
                continue
            if end is None:
                texts.append(tokenizer.decode([*start, *answer]))
            else:
                said = {"role": "assistant", "content": tokenizer.decode(answer[:end])}
                texts.append(template.render([*messages, said], add_generation_prompt=False))
        yield _kept(texts)


def _check_context(model: Any, num_prompt: int, num_tokens: int) -> None:
    if context := exceeded_context(model, num_prompt + num_tokens):
        raise DataRequestError(
            f"--prompts: the longest question has {num_prompt} tokens, and --tokens {num_tokens} more are "
            f"beyond the model's context of {context}: lower --tokens, or leave the question out"
        )


def _kept(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if "://" not in text]


@torch.inference_mode()
def _drawn(model: Any, starts: Sequence[list[int]], num_tokens: int, **how: Any) -> list[list[int]]:
    """What the model writes behind each start, filled up with 0 behind an end."""
    ids, mask = left_padded(starts)
    written = model.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        do_sample=True,
        **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, **how},
        max_new_tokens=num_tokens,
        pad_token_id=0,
        cache_implementation="static",  # a cache that grows is copied at every token
        disable_compile=True,
    )
    return written[:, ids.shape[1] :].tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    refuse_below_one(parser, options, "conversations", "tokens", "batch_size")
    if not options.temperature > 0:
        parser.error(f"--temperature is {options.temperature}; give more than 0")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here; leave it out")
    with boundary():
        _run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Let a chat model write conversations with itself, or answer questions, to calibrate or "
        "distil it on.",
        epilog="examples: write_chat.py --source path --name ./Qwen3-0.6B --output chat.jsonl.gz "
        "--conversations 600; write_chat.py --prompts questions.jsonl.gz --format instruction --output "
        "answers.jsonl.gz; then data.sources=[{kind: path, name: chat, location: chat.jsonl.gz}]",
    )
    parser.add_argument(
        "--output", type=given_path, required=True, help="a .jsonl or .jsonl.gz file to write"
    )
    parser.add_argument("--source", type=ModelSource, default=ModelSource.packaged, choices=list(ModelSource))
    parser.add_argument("--name", help="folder or hub id of the model")
    parser.add_argument("--prompts", type=given_path, help="answer what is asked in these records, once each")
    parser.add_argument(
        "--format",
        choices=[TEXT, *FORMATS],
        default=TEXT,
        help="of the --prompts; text is a question in each record's field text (default)",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="of the answers to --prompts (default: 0.8)"
    )
    parser.add_argument(
        "--conversations", type=int, default=512, help="how many are written without --prompts (default: 512)"
    )
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each at most (default: 256)")
    parser.add_argument("--batch-size", type=int, default=64, help="written together (default: 64)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _run(options: argparse.Namespace) -> None:
    questions = None if options.prompts is None else _questions(options.prompts, options.format)
    model, tokenizer = load_dense_model(options.source, options.name, getattr(torch, options.dtype))
    model.to(options.device)
    num_tokens, batch_size = options.tokens, options.batch_size
    if questions is None:
        num_texts = options.conversations
        batches = write_conversations(model, tokenizer, num_tokens, batch_size, options.seed)
    else:
        num_texts = len(questions)
        batches = write_answers(
            model, tokenizer, questions, num_tokens, batch_size, options.temperature, options.seed
        )
    found: list[str] = []
    for _ in track(range(-(-num_texts // batch_size)), description="writing conversations"):
        found += next(batches)
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found)
    data = lines.encode()
    packed = gzip.compress(data, mtime=0) if options.output.suffix == ".gz" else data
    atomic_write_bytes(options.output, packed)
    sys.stdout.write(f"{len(found)} conversations of {num_tokens} tokens in {options.output}\n")


def _questions(path: Path, format_name: str) -> list[list[Message]]:
    """What stands before the first answer of each record, each once. Raises: DataError."""
    check_document_file(path)
    found: dict[str, list[Message]] = {}
    for asked in _asked(path, format_name):
        if asked[-1]["role"] == "user":
            found.setdefault(json.dumps(asked), asked)
    if not found:
        raise DataRequestError(f"--prompts: no record of {path} begins with a question")
    return list(found.values())


def _asked(path: Path, format_name: str) -> Iterator[list[Message]]:
    if format_name == TEXT:
        for text in read_documents(path):
            yield [{"role": "user", "content": text}]
    else:
        for messages in read_conversations(path, FORMATS[format_name]):
            yield list(takewhile(lambda message: message["role"] != "assistant", messages))
