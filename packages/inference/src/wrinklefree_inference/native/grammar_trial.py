"""`python -m wrinklefree_inference.native.grammar_trial SECONDS`: whether grammars of stdin compile.

A line in: {"grammar": ..., "num_tokens": ...}. A line out: {"error": ...}, empty where it compiles. There are
schemas of a few words that compile for minutes (`multipleOf` with a large prime) or take gigabytes, and
llguidance has no limit of time; so each is tried here, within the limits of `wf_formats.limited_worker`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from wf_formats.limited_worker import answer_lines
from wrinklefree_inference.native.grammar import Vocabulary, limits, tokenizer_of


def main() -> None:
    """Answer until stdin ends."""
    answer_lines(_answer, {"error": "it takes too much memory"})


def _answer(asked: dict[str, Any]) -> dict[str, str]:
    tokenizer = _bytes_of(asked["num_tokens"])
    matcher = LLMatcher(tokenizer, asked["grammar"], log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    return {"error": matcher.get_error()}


@lru_cache(maxsize=1)
def _bytes_of(num_tokens: int) -> LLTokenizer:
    """The smallest that any grammar can be tried with; a grammar may name any id."""
    special = num_tokens - 1
    tokens = [*(bytes([byte]) for byte in range(256)), *(b"" for _ in range(256, num_tokens))]
    ids = frozenset({special})
    return tokenizer_of(Vocabulary(tokens, ids, ids, encode=lambda text: list(text.encode())))


if __name__ == "__main__":
    main()
