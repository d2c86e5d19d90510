"""One request inside the engine: its tokens, how far they are computed, and the pages that hold them."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.pages import pages_for
from wrinklefree_inference.native.request import Delta, GenerationRequest
from wrinklefree_inference.native.speculation.record import GuessRecord
from wrinklefree_inference.native.stops import TextAssembler, TokenDecoder


class Sink(Protocol):
    """Takes the deltas of one answer, and the error that ends it, from the worker's thread; never blocks."""

    def put(self, event: Delta | EngineError, /) -> None:
        """Add one."""


class Sequence:
    """A request and its state. Only the worker thread changes it.

    Attributes:
        tokens: int32 [prompt + max_tokens]; the first `num_tokens` are known.
        num_computed: Tokens whose keys and values are in `pages`.
        pages: int32; the first `num_pages` are the sequence's, in the order of the text.
        digests: Of the first full pages, as far as they were needed.
        sink: The queue of its reader.
        is_unread: Whether the reader is so far behind that the sequence is to wait.
        arrival: Rank by age: what came later is preempted first.
        cached_prompt_tokens: Found in the cache when it first ran; None before.
        num_echoed: Tokens of the prompt that were given out, where that was asked for; `echo_decoder` makes
            their text.
        bias: Ids (int32) and values (float32) of the request's `logit_bias`, if it has one.
        guesses: What may come next, while a step computes it, and what became of it.
        num_passes: Forward passes that drew tokens of it or, of blocks, computed them once more.
        pooled: float64 [hidden], sum of the hidden states of the prompt's first `num_pooled` tokens, where
            its embedding was asked for.
    """

    __slots__ = (
        "arrival",
        "assembler",
        "bias",
        "cached_prompt_tokens",
        "digests",
        "echo_decoder",
        "guesses",
        "is_done",
        "is_unread",
        "num_computed",
        "num_echoed",
        "num_pages",
        "num_passes",
        "num_pooled",
        "num_prompt",
        "num_published",
        "num_tokens",
        "pages",
        "pooled",
        "request",
        "seed",
        "sink",
        "tokens",
    )

    def __init__(
        self,
        request: GenerationRequest,
        decoder: TokenDecoder,
        sink: Sink,
        is_unread: Callable[[], bool] = lambda: False,
    ) -> None:
        sampling = request.sampling
        self.request = request
        self.sink, self.is_unread = sink, is_unread
        self.seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
        self.assembler = TextAssembler(decoder, sampling.stop)
        self.echo_decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.bias: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
        if sampling.logit_bias:
            ids, values = zip(*sampling.logit_bias, strict=True)
            self.bias = np.array(ids, np.int32), np.array(values, np.float32)
        self.num_prompt = self.num_tokens = len(request.prompt_ids)
        capacity = self.num_prompt + request.max_answer_tokens
        self.tokens: NDArray[np.int32] = np.empty(capacity, np.int32)  # the system maps what is written
        self.tokens[: self.num_prompt] = request.prompt_ids
        self.pages: NDArray[np.int32] = np.empty(pages_for(capacity), np.int32)
        self.num_pages = self.num_computed = self.num_published = self.num_echoed = self.num_pooled = 0
        self.num_passes = 0
        self.pooled: NDArray[np.float64] | None = None
        self.digests: list[bytes] = []
        self.guesses = GuessRecord()
        self.arrival = 0
        self.cached_prompt_tokens: int | None = None
        self.is_done = False

    @property
    def num_pending(self) -> int:
        """Known tokens that are not computed; the last one is where the next is drawn."""
        return self.num_tokens - self.num_computed

    @property
    def is_stream(self) -> bool:
        """Whether the next pass brings the answer on, and no prompt is left to compute before."""
        return self.num_pending == 1

    @property
    def num_places(self) -> int:
        """Tokens that its pages must hold before the next pass."""
        return self.num_tokens

    @property
    def wants_answer(self) -> bool:
        """Whether tokens are drawn, or the prompt alone is wanted."""
        return self.request.max_answer_tokens > 0

    def is_drawn_after(self, count: int) -> bool:
        """Whether a token is drawn once `count` pending ones are computed."""
        return count == self.num_pending and self.wants_answer

    @property
    def num_reusable(self) -> int:
        """First tokens that need not be computed if the cache has them: nobody wants what comes of them."""
        sampling = self.request.sampling
        if self.request.embeds:
            return min(self.num_pooled, self.num_tokens - 1)
        if sampling.echo and sampling.logprobs is not None and self.num_echoed < self.num_prompt:
            return max(self.num_echoed - 1, 0)
        return self.num_tokens - 1

    @property
    def num_generated(self) -> int:
        """Tokens drawn so far: the counter of the next draw."""
        return self.num_tokens - self.num_prompt

    @property
    def history(self) -> NDArray[np.int32]:
        """The tokens before the next draw."""
        return self.tokens[: self.num_tokens]

    @property
    def answer(self) -> NDArray[np.int32]:
        """The tokens drawn so far."""
        return self.tokens[self.num_prompt : self.num_tokens]

    def page_list(self) -> list[int]:
        """Its pages, in the order of the text."""
        ids: list[int] = self.pages[: self.num_pages].tolist()
        return ids

    def add_pages(self, pages: list[int]) -> None:
        """Append pages."""
        self.pages[self.num_pages : self.num_pages + len(pages)] = pages
        self.num_pages += len(pages)

    def forget_pages(self) -> list[int]:
        """Drop all that was computed; the pages are the caller's to release."""
        pages = self.page_list()
        self.num_pages = self.num_computed = self.num_published = 0
        return pages


StepPlan = list[tuple[Sequence, int]]
"""Sequences of the next forward pass and how many tokens each computes: of those that are pending, or the
block at hand."""
