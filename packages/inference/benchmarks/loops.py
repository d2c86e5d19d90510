"""How many answers end in a loop: chat prompts in an engine of `wf chat`, greedy and as `wf chat` samples.

    uv run python packages/inference/benchmarks/loops.py ../shared/data/eval/vicuna_bench/test.jsonl.gz M...

M is whatever `wf chat` takes; `--engine llamacpp` for files that are not ternary. Prompts are the first turns
of records with `turns`. An answer loops if its last words are one phrase three times (of 24 words at most).
Prints JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from wf_formats.environment import environment
from wrinklefree_inference.engines import open_engine
from wrinklefree_inference.engines.base import Message, Sampling

LONGEST_PHRASE, REPETITIONS = 24, 3


def is_loop(text: str) -> bool:
    """Whether the last words are one phrase, several times; the last one may be cut off."""
    for words in (text.split(), text.split()[:-1]):
        for length in range(1, LONGEST_PHRASE + 1):
            tail = words[-length * REPETITIONS :]
            if len(tail) == length * REPETITIONS and tail == tail[-length:] * REPETITIONS:
                return True
    return False


def measure(model: str, engine_name: str, prompts: list[str], max_tokens: int) -> dict[str, Any]:
    ways = {
        "greedy": Sampling(max_tokens=max_tokens, temperature=0),
        "sampled": Sampling(max_tokens=max_tokens, seed=0),
    }
    found: dict[str, Any] = {"model": model}
    with open_engine(model, engine_name) as engine:
        for name, sampling in ways.items():
            turns = [[Message(role="user", content=prompt)] for prompt in prompts]
            answers = ["".join(engine.chat(turn, sampling)) for turn in turns]
            found[name] = {"loops": sum(map(is_loop, answers)), "answers": len(answers), "first": answers[:3]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", type=Path, help=".jsonl.gz of records with `turns`")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--engine", default="native", help="default: native")
    parser.add_argument("--max-tokens", type=int, default=128, help="of an answer (default: 128)")
    args = parser.parse_args()
    with gzip.open(args.prompts, "rt", encoding="utf-8") as file:
        prompts = [json.loads(line)["turns"][0] for line in file]
    found = [measure(model, args.engine, prompts, args.max_tokens) for model in args.models]
    print(json.dumps({"models": found, **environment("torch")}, indent=2))


if __name__ == "__main__":
    main()
