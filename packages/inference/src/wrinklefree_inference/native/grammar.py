"""Answers held to a grammar, by llguidance.

    Grammars(tokens)        a model's tokens as llguidance wants them, made when the first grammar comes (1 s)
    .compile(text, parts)   a grammar, tried in a process with limits first; the latest are kept
    Grammar.new()           the state of one answer: which tokens may come next (`TokenConstraint`)

Compiling blocks, so an event loop hands it to a thread; llguidance lets other threads run meanwhile. A
hostile schema is stopped by its size and depth, then by the trial's limits of time and memory
(`grammar_trial.py`), and while tokens are drawn by llguidance's own bounds on work per token, beyond which
its answer alone ends.

Cost: about 1 ms to compile a schema of ten properties, 0.02 to 0.2 ms of the worker's thread for a token.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wf_formats.errors import RequestError
from wf_formats.limited_process import LimitedProcess, ProcessEndedError

MAX_GRAMMAR_CHARS = 1 << 18
"""Of all schemas of a request together."""
TRIAL_S = 1.0
"""Processor time."""
_NUM_KEPT = 32
_FEWEST_TOKENS = 257
_QUOTED = re.compile(r"\s*\d+ \|")
_TRIAL = LimitedProcess("wrinklefree_inference.native.grammar_trial", TRIAL_S)

_LIMITS: dict[str, Any] = {
    "max_items_in_row": 10_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 30_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "precompute_large_lexemes": False,  # several seconds for the format `uri` alone
    "verbose_errors": False,  # they would quote the answer
}
"""Of llguidance (`LLParserLimits`); 50,000 units of fuel are about 5 ms."""


def limits() -> Any:
    """`LLParserLimits` of this server."""
    from llguidance import LLParserLimits

    return LLParserLimits(**_LIMITS)


class GrammarError(RequestError):
    """A grammar that cannot be; `field` names the part of the request that is to blame."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Vocabulary:
    """A model's tokens.

    Attributes:
        tokens: Bytes of each, as many as the model has rows; none where there is no token.
        special_ids: Tokens that are no text.
        eos_ids: Tokens that end an answer.
        encode: Ids of a text in the middle of another.
    """

    tokens: Sequence[bytes]
    special_ids: frozenset[int]
    eos_ids: frozenset[int]
    encode: Callable[[str], list[int]]


def stop_trials() -> None:
    """End what is being tried, with an error to who waits for it; a program that ends need not wait."""
    _TRIAL.close()


class Grammars:
    """Grammars of one model; used by several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, text: str, parts: Mapping[str, str]) -> Grammar:
        """A grammar.

        Args:
            text: In llguidance's notation (`tool_calls.grammars`).
            parts: What it is made of, a grammar for each field of the request, so that an error can name one.

        Raises:
            GrammarError: It is too large, damaged, asks what llguidance cannot do, or takes too long.
        """
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
        grammar = self._compiled(text, parts)
        with self._lock:
            self._kept[text] = grammar
            if len(self._kept) > _NUM_KEPT:
                self._kept.popitem(last=False)
        return grammar

    @cached_property
    def _tokenizer(self) -> Any:
        return tokenizer_of(self._vocabulary)

    def _compiled(self, text: str, parts: Mapping[str, str]) -> Grammar:
        if len(text) > MAX_GRAMMAR_CHARS:
            raise GrammarError(
                f"all schemas together have {len(text)} characters, at most {MAX_GRAMMAR_CHARS} are taken",
                next(iter(parts), None),
            )
        for field, part in parts.items():
            self._try(part, field)
        if text not in parts.values():
            self._try(text, next(iter(parts), None))
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=limits())
        return Grammar(matcher, len(self._vocabulary.tokens))

    def _try(self, text: str, field: str | None) -> None:
        asked = {"grammar": text, "num_tokens": max(len(self._vocabulary.tokens), _FEWEST_TOKENS)}
        try:
            reply = json.loads(_TRIAL.ask(json.dumps(asked).encode() + b"\n"))
        except ProcessEndedError as error:
            raise GrammarError(f"the schema is beyond the limits of the server: {error}", field) from error
        if reply["error"]:
            raise GrammarError(f"the schema cannot be held to: {_words(reply['error'])}", field)


class Grammar:
    """A compiled grammar."""

    def __init__(self, matcher: Any, num_tokens: int) -> None:
        self._matcher, self._num_tokens = matcher, num_tokens
        self.new().mask()  # what the first mask needs is made here, not in a step

    def new(self) -> GrammarConstraint:
        """The state of one answer."""
        return GrammarConstraint(self._matcher.deep_copy(), self._num_tokens)


class GrammarConstraint:
    """What one answer may go on with; a `TokenConstraint`."""

    def __init__(self, matcher: Any, num_tokens: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros((num_tokens + 31) // 32, np.uint32)

    def mask(self) -> NDArray[np.uint32]:
        """uint32 [ceil(vocabulary / 32)], a bit for each token that may come next; valid until the next call.

        Raises:
            ValueError: The grammar is too complex to go on with.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        return self._mask

    def accept(self, token_id: int) -> None:
        """Go on behind a token of the mask.

        Raises:
            ValueError: As `mask`.
        """
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete and can have no more tokens."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"the schema is too complex: {_words(self._matcher.get_error())}")


def tokenizer_of(vocabulary: Vocabulary) -> Any:
    """llguidance's `LLTokenizer`."""
    from llguidance import LLTokenizer, TokenizerWrapper

    if not vocabulary.eos_ids:
        raise GrammarError("the model has no end-of-text token, so that no answer could be complete")
    wrapped = TokenizerWrapper(_Tokens(vocabulary))
    return LLTokenizer(wrapped, eos_token=sorted(vocabulary.eos_ids))


class _Tokens:
    """The attributes that llguidance asks for."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = sorted(vocabulary.special_ids)
        self.eos_token_id = min(vocabulary.eos_ids)
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text)
        return ids


def _words(error: str) -> str:
    """llguidance's own, on one line and without the grammar that it quotes."""
    lines = takewhile(lambda line: not _QUOTED.match(line), error.replace("<non-verbose/>", "").splitlines())
    reason = " ".join(" ".join(lines).split()).rpartition("failed to compile JSON schema: ")[2]
    return "nothing fits it" if reason.startswith("NoExtension") else reason[:300]
