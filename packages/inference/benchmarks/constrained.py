"""What it costs to hold answers to a schema: streams with one beside plain streams, in the same process.

    uv run python packages/inference/benchmarks/constrained.py model.gguf [--tokens 64] [--pairs 5]

Each pair runs `--streams` answers of `--tokens` tokens held to a JSON schema and as many plain ones, by turns
first, through the scheduler, the decoder, the sampler and the text of the native engine, without HTTP. Checks
first that the answers are what the schema begins. Prints JSON: the median over the pairs of the ratio of
tokens per second (1 is equal, below 1 the schema costs), each pair, and the time of masks per token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from wf_formats.environment import environment
from wrinklefree_inference.native.core import Core
from wrinklefree_inference.native.loading import load_native_model
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import Delta, GenerationRequest, SamplingParams
from wrinklefree_inference.options import EngineOptions
from wrinklefree_inference.tool_calls.grammars import json_grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "is_member": {"type": "boolean"},
        "kind": {"enum": ["first", "second", "third"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["name", "age", "is_member", "kind", "tags"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 1000}  # longer than any answer here
PROMPT = [{"role": "user", "content": "Write a list of people as JSON."}]
PACKAGES = ("wrinklefree-inference", "ternary-kernels", "llguidance", "numpy")


class Text:
    """Takes what one answer says."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, event: Delta | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        self.text += event.text


class TimedConstraint:
    """A constraint whose time is measured."""

    seconds, num_masks = 0.0, 0

    def __init__(self, constraint: Any) -> None:
        self._constraint = constraint

    def mask(self) -> Any:
        start_s = time.perf_counter()
        mask = self._constraint.mask()
        TimedConstraint.seconds += time.perf_counter() - start_s
        TimedConstraint.num_masks += 1
        return mask

    def accept(self, token_id: int) -> None:
        self._constraint.accept(token_id)

    @property
    def is_over(self) -> bool:
        return bool(self._constraint.is_over)


def run(model: NativeModel, core: Core, ids: list[int], options: argparse.Namespace, grammar: Any) -> float:
    """Tokens per second of all streams together."""
    texts, sequences = [Text() for _ in range(options.streams)], []
    for seed, text in enumerate(texts):
        constraint = None if grammar is None else TimedConstraint(grammar.new())
        sampling = SamplingParams(max_tokens=options.tokens, seed=seed, ignore_eos=True)
        request = GenerationRequest(tuple(ids), sampling, str(seed), constraint=constraint)
        sequences.append(model.new_sequence(request, text))
    start_s = time.perf_counter()
    for sequence in sequences:
        core.scheduler.add(sequence)
    while core.scheduler.has_work:
        for sequence, event in core.step():
            sequence.sink.put(event)
    seconds = time.perf_counter() - start_s
    assert all(sequence.num_generated == options.tokens for sequence in sequences)
    if grammar is not None:
        assert all(text.text.lstrip().startswith("[") for text in texts), [text.text for text in texts]
    return options.streams * options.tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a ternary GGUF file or folder")
    parser.add_argument("--streams", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (default: 64)")
    parser.add_argument("--pairs", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    model = load_native_model(options.model, EngineOptions(context_tokens=1024))
    core, ids = model.new_core(), model.tokenize_chat(PROMPT)
    grammar = model.grammars.compile(json_grammar(SCHEMA, is_strict=True), {})
    run(model, core, ids, options, None)  # pages, caches
    ratios = []
    for number in range(options.pairs):
        ways = [grammar, None] if number % 2 else [None, grammar]
        speeds = {way is None: run(model, core, ids, options, way) for way in ways}
        ratios.append(speeds[False] / speeds[True])
    mask_ms = 1000 * TimedConstraint.seconds / TimedConstraint.num_masks
    found = {
        "streams": options.streams,
        "tokens": options.tokens,
        "ratio_of_tokens_per_s": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "mask_ms_per_token": round(mask_ms, 3),
    }
    print(json.dumps(found | environment(*PACKAGES), indent=2))


if __name__ == "__main__":
    main()
