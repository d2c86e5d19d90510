"""From tokens to text that may be shown: decoding, stop strings, log-probabilities in step.

A stop string may begin in the middle of one token and end in a later one, so text that could be the
beginning of one is held back until the next characters decide. Each stop string is followed by a
Knuth-Morris-Pratt automaton: constant work per character and string, whatever the strings are. The
first string that is *completed* ends the answer (of several completed by one character, the longest).

Tokens and their log-probabilities are given out with the text that they end: a token waits while its
text is held back or its character is incomplete, and a token of which only the stop string is made is
never given out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wrinklefree_inference.native.request import TokenLogprob


class TokenDecoder(Protocol):
    """Text of tokens that come one at a time (`native.tokenizer.StreamDecoder`)."""

    def push(self, token_id: int, /) -> str:
        """The characters that this token completes."""

    def flush(self) -> str:
        """What is left of an incomplete character."""


@dataclass(frozen=True)
class Piece:
    """What became showable: text, the tokens that end in it, and whether a stop string came up."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    is_stopped: bool = False

    def __add__(self, later: Piece) -> Piece:
        return Piece(
            self.text + later.text,
            self.token_ids + later.token_ids,
            self.logprobs + later.logprobs,
            later.is_stopped,
        )


class StopMatcher:
    """Finds the first completed stop string in characters that come in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._failures = [_failure_table(stop) for stop in stops]
        self._matched = [0] * len(stops)

    @property
    def num_held(self) -> int:
        """Length of the longest beginning of a stop string that the text ends with."""
        return max(self._matched, default=0)

    def feed(self, text: str) -> int | None:
        """Offset in `text` at which a stop string begins (negative: in earlier text), None without one."""
        if not self._stops:
            return None
        for position, char in enumerate(text, 1):
            longest = max((self._advance(i, char) for i in range(len(self._stops))), default=0)
            if longest:
                return position - longest
        return None

    def _advance(self, index: int, char: str) -> int:
        """Follow one string by a character; its length if that completes it, else 0."""
        stop, failure, matched = self._stops[index], self._failures[index], self._matched[index]
        while matched and stop[matched] != char:
            matched = failure[matched - 1]
        matched += stop[matched] == char
        self._matched[index] = matched if matched < len(stop) else failure[-1]
        return matched if matched == len(stop) else 0


def _failure_table(stop: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    table, matched = [0], 0
    for char in stop[1:]:
        while matched and stop[matched] != char:
            matched = table[matched - 1]
        matched += stop[matched] == char
        table.append(matched)
    return table


@dataclass(frozen=True)
class _Token:
    token_id: int
    logprob: TokenLogprob | None
    start: int
    end: int


class TextAssembler:
    """The answer of one request as text."""

    def __init__(self, decoder: TokenDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._matcher = StopMatcher(stops)
        self._held = ""
        self._num_out = 0  # characters given out
        self._open: list[tuple[int, TokenLogprob | None]] = []  # their character is incomplete
        self._waiting: deque[_Token] = deque()

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> Piece:
        """Add a token."""
        self._open.append((token_id, logprob))
        text = self._decoder.push(token_id)
        return self._add(text) if text else Piece()

    def finish(self) -> Piece:
        """The end of the answer: give out what was held back."""
        piece = self._add(self._decoder.flush())
        if piece.is_stopped:
            return piece
        rest, self._held = self._held, ""
        self._num_out += len(rest)
        return piece + self._release(self._num_out, rest)

    def _add(self, text: str) -> Piece:
        start = self._num_out + len(self._held)
        self._waiting.extend(_Token(*token, start, start + len(text)) for token in self._open)
        self._open.clear()
        stop_at = self._matcher.feed(text)
        text = self._held + text
        if stop_at is not None:
            text = text[: len(self._held) + stop_at]
            self._num_out += len(text)
            return self._release(self._num_out, text, is_stopped=True)
        num_shown = len(text) - self._matcher.num_held
        self._held = text[num_shown:]
        self._num_out += num_shown
        return self._release(self._num_out, text[:num_shown])

    def _release(self, before: int, text: str = "", *, is_stopped: bool = False) -> Piece:
        """The waiting tokens that end in the text given out or, at a stop string, begin in it."""
        tokens = []
        while self._waiting and (
            self._waiting[0].start < before if is_stopped else self._waiting[0].end <= before
        ):
            tokens.append(self._waiting.popleft())
        logprobs = tuple(token.logprob for token in tokens if token.logprob is not None)
        return Piece(text, tuple(token.token_id for token in tokens), logprobs, is_stopped)
