"""What speculation brings: the time of answers with guesses beside that without, by prompts in turns.

    python packages/inference/benchmarks/speculation.py MODEL.gguf ../shared/data
    python packages/inference/benchmarks/speculation.py MODEL.gguf ../shared/data --own --draft-model SMALL

Prompts and answers: `document` questions about a text and summaries of one (Dolly), `edit` a file of code and
the same with a name changed, `chat` open questions (MT-Bench, Vicuna). The answers are the data's references,
given out as if the model had drawn them, so that a model of random weights will do for the speed of its
shape; with `--own` they are what the model says itself, greedily. Time is that from an answer's first token
to its last.

`ratio` is the seconds a token without guesses to those with, of all prompts; `median_ratio` and `least_ratio`
of single ones; `processor_ratio` is that of processor time, which a busy machine blurs less (with
`--threads 1`). Prints JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from wf_formats.environment import environment
from wrinklefree_inference.native.loading import load_native_model
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import GenerationRequest, SamplingParams
from wrinklefree_inference.options import CacheOptions, NativeOptions, QueueOptions

MAX_PROMPT_TOKENS, MAX_ANSWER_TOKENS = 1200, 192
Pair = tuple[str, str]


def records(data: Path, name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def document(data: Path) -> Iterator[Pair]:
    for record in records(data, "sft/dolly_hhrlhf/train"):
        if len(record["prompt"]) > 1200 and len(record["response"]) > 150:
            yield record["prompt"], record["response"]


def edit(data: Path) -> Iterator[Pair]:
    for record in records(data, "pretrain/code_python_stdlib/validation"):
        text = record["text"][:2500]
        names = re.findall(r"\b[a-z_]{4,}\b", text)
        name = max(sorted(set(names)), key=names.count)
        changed = re.sub(rf"\b{name}\b", "renamed_value", text)
        yield f"Rename {name} to renamed_value in this file:\n\n{text}", changed


def chat(data: Path) -> Iterator[Pair]:
    for name in ("eval/mt_bench/test", "eval/vicuna_bench/test"):
        for record in records(data, name):
            if record.get("reference"):
                yield record["turns"][0], record["reference"][0]


SETS: dict[str, Callable[[Path], Iterator[Pair]]] = {"document": document, "edit": edit, "chat": chat}


def requests_of(model: NativeModel, pairs: Iterator[Pair], args: argparse.Namespace) -> list[Any]:
    """(request, tokens of its answer or None) of the first prompts that are short enough."""
    found: list[Any] = []
    for prompt, answer in pairs:
        ids = model.tokenize_chat([{"role": "user", "content": prompt}])
        reference = model.tokenizer.encode(answer, False)[:MAX_ANSWER_TOKENS]
        if len(ids) > MAX_PROMPT_TOKENS or len(reference) < 16:
            continue
        num = args.max_tokens if args.own else len(reference)
        sampling = SamplingParams(temperature=0.0, seed=len(found), max_tokens=num, ignore_eos=not args.own)
        found.append((GenerationRequest(tuple(ids), sampling, str(len(found))), reference))
        if len(found) == args.prompts:
            break
    return found


def giving_out(references: Sequence[Sequence[int]]) -> Any:
    """A sampler that draws the references: the seed says which, the counter where."""

    def sample(logits: Any, seeds: Any, counters: Any, **_params: Any) -> Any:
        places = zip(seeds.tolist(), counters.tolist(), strict=True)
        tokens = np.array([references[seed][counter] for seed, counter in places], np.int32)
        return tokens, np.zeros(len(tokens), np.float32), [], []

    return sample


def seconds_of(core: Any, model: NativeModel, requests: Sequence[GenerationRequest]) -> tuple[Any, list[Any]]:
    """(Wall, processor) seconds of a token, from when all answers have begun to the end of all; answers."""
    sequences = [model.new_sequence(request, SimpleQueue()) for request in requests]
    for sequence in sequences:
        core.scheduler.add(sequence)
    while not all(sequence.num_generated for sequence in sequences):
        core.step()
    start_s, before = clocks(), sum(sequence.num_generated for sequence in sequences)
    while core.scheduler.has_work:
        core.step()
    seconds = clocks() - start_s
    answers = [sequence.answer.tolist() for sequence in sequences]
    return seconds / max(1, sum(map(len, answers)) - before), answers


def clocks() -> Any:
    """Wall and processor seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(model: NativeModel, found: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Both arms in turns, over all prompts."""
    requests = [request for request, _ in found]
    if not args.own:
        model = replace(model, sample=giving_out([reference for _, reference in found]))
    queue = QueueOptions(max_running=args.streams)
    arms = {"off": replace(model, new_guesser=None).new_core(queue), "on": model.new_core(queue)}
    seconds: dict[str, list[Any]] = {arm: [] for arm in arms}
    groups = [requests[i : i + args.streams] for i in range(0, len(requests), args.streams)]
    num_tokens = 0
    for turn, group in enumerate(groups):
        answers = {}
        for arm in list(arms)[:: 1 if turn % 2 else -1]:
            each_s, answers[arm] = seconds_of(arms[arm], model, group)
            seconds[arm].append(each_s)
        assert answers["on"] == answers["off"], "guesses have changed an answer"
        num_tokens += sum(map(len, answers["on"]))
    counters = arms["on"].counters
    off, on = np.array(seconds["off"]), np.array(seconds["on"])
    wall, processor = (off.sum(axis=0) / on.sum(axis=0)).tolist()
    ratios = (off / on)[:, 0].tolist()
    return {
        "ratio": round(wall, 3),
        "processor_ratio": round(processor, 3),
        "median_ratio": round(statistics.median(ratios), 3),
        "least_ratio": round(min(ratios), 3),
        "tokens_per_step": round(num_tokens / max(1, num_tokens - counters.accepted_tokens), 2),
        "guessed": counters.guessed_tokens,
        "accepted": counters.accepted_tokens,
        "tokens": num_tokens,
        "ms_per_token_off": round(1e3 * float(np.median(off[:, 0])), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="folder of the text data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--prompts", type=int, default=12, help="of each set (default: 12)")
    parser.add_argument("--own", action="store_true", help="the model's own answers")
    parser.add_argument("--max-tokens", type=int, default=160, help="of its own answers (default: 160)")
    parser.add_argument("--streams", type=int, default=1, help="prompts answered together (default: 1)")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--draft-model", type=Path, help="guess by it instead of by prompt lookup")
    args = parser.parse_args()
    options = NativeOptions(2048, args.threads, draft_model=args.draft_model)
    model = load_native_model(args.model, options, CacheOptions(contexts=args.streams))
    found = {
        name: measure(model, requests_of(model, SETS[name](args.data), args), args) for name in args.sets
    }
    arguments = {"streams": args.streams, "own": args.own, "guesses_by": options.guesses_by.value}
    print(json.dumps({"model": args.model.name, **arguments, "sets": found, **environment()}, indent=2))


if __name__ == "__main__":
    main()
