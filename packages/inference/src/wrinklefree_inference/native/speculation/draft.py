"""A smaller model of the same vocabulary says what may come next.

It has keys and values of its own, in pages known by the same digests as the target's, so that a conversation
that goes on is not computed twice. Of a text that it does not have it computes `CHUNK_TOKENS` a step and
guesses once it has caught up. Its tokens are drawn with temperature, filters and bias of the request and the
numbers that the target will draw with (common random numbers): the two agree more often than draws of their
own would. Penalties and masks are the target's alone.

Cost: a forward pass of the draft model for each guess, all sequences together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.native.draw_params import Sampler, unruled_arguments
from wrinklefree_inference.native.forward import Part, batch_of
from wrinklefree_inference.native.pages import PageCache, pages_for
from wrinklefree_inference.native.runner import Floats, Ints, ModelRunner
from wrinklefree_inference.native.sequence import Sequence
from wrinklefree_inference.native.speculation.record import Guess

logger = logging.getLogger(__name__)

EXPECTATION = 0.7
"""How often a draft model is right, before more is known of a text."""
CHUNK_TOKENS = 256


@dataclass
class _Text:
    """What the draft model has of one sequence.

    Attributes:
        tokens: int32 [capacity]; keys and values of the first `num_computed` are in `pages`. They are the
            sequence's as far as they agree: the last ones were guesses.
        num_published: First pages that are findable.
    """

    tokens: Ints
    num_computed: int = 0
    num_published: int = 0
    pages: list[int] = field(default_factory=list)


class DraftGuesser:
    """A `Guesser` by a model.

    Args:
        runner: The draft model.
        context_tokens: Longest text that it takes; longer ones get no guess.
        sample: `ternary_kernels.sample`.
        vocab_size: Rows of the target's vocabulary.
        own_vocab_size: Those of the draft model, which may have more or fewer spare ones; a text with a token
            that it lacks gets no guess.
    """

    expectation = EXPECTATION

    def __init__(
        self,
        runner: ModelRunner,
        context_tokens: int,
        sample: Sampler,
        vocab_size: int,
        own_vocab_size: int,
    ) -> None:
        self._runner, self._sample = runner, sample
        self._context_tokens = context_tokens
        self._vocab_size, self._own_vocab_size = vocab_size, own_vocab_size
        self._has_complained = False
        self._cache = PageCache(runner.num_pages)
        self._texts: dict[Sequence, _Text] = {}

    def guess(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Guess]:
        """See `Guesser`."""
        for sequence in self._texts.keys() - wanted.keys():
            self.forget(sequence)
        asked = {
            sequence: most for sequence, most in wanted.items() if most and self._has_room(sequence, most)
        }
        ready = self._caught_up(asked)
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in ready}
        while ready:
            drawn = self._next(ready, guesses)
            for sequence, token in drawn.items():
                guesses[sequence].append(token)
            ready = [sequence for sequence in drawn if len(guesses[sequence]) < asked[sequence]]
        return {s: Guess(tuple(tokens), (EXPECTATION,) * len(tokens)) for s, tokens in guesses.items()}

    def forget(self, sequence: Sequence) -> None:
        """See `Guesser`; full pages stay findable for the next turn of a conversation."""
        text = self._texts.pop(sequence, None)
        if text is not None:
            self._cache.release(text.pages)

    def _has_room(self, sequence: Sequence, most: int) -> bool:
        """Whether text and guesses fit, and their pages are there."""
        num_tokens = sequence.num_tokens + most
        if num_tokens > self._context_tokens:
            return False
        text = self._texts.get(sequence) or self._begin(sequence)
        self._keep_what_agrees(sequence, text)
        missing = pages_for(num_tokens) - len(text.pages)
        pending = sequence.tokens[text.num_computed : sequence.num_tokens]
        if missing > self._cache.num_available or (pending >= self._own_vocab_size).any():
            self.forget(sequence)
            return False
        text.pages += self._cache.take(max(missing, 0))
        return True

    def _begin(self, sequence: Sequence) -> _Text:
        """With the pages of its beginning that are known."""
        pages = self._cache.match(sequence.digests[: (sequence.num_tokens - 1) // PAGE_TOKENS])
        num_computed = len(pages) * PAGE_TOKENS
        text = _Text(np.empty_like(sequence.tokens), num_computed, len(pages), pages)
        text.tokens[:num_computed] = sequence.tokens[:num_computed]
        self._texts[sequence] = text
        return text

    def _keep_what_agrees(self, sequence: Sequence, text: _Text) -> None:
        """Forget refused guesses, and make pages findable that are full without them.

        The last known token is always computed, for what comes after it.
        """
        most = min(text.num_computed, sequence.num_tokens - 1)
        first = text.num_published * PAGE_TOKENS  # what is published agrees
        differs = np.flatnonzero(text.tokens[first:most] != sequence.tokens[first:most])
        text.num_computed = first + int(differs[0]) if differs.size else most
        for index in range(text.num_published, min(text.num_computed // PAGE_TOKENS, len(sequence.digests))):
            text.pages[index] = self._cache.publish(text.pages[index], sequence.digests[index])
            text.num_published = index + 1

    def _caught_up(self, asked: Iterable[Sequence]) -> list[Sequence]:
        """Those of which little is left to compute; of the first one that lags, a chunk is computed."""
        ready, room = [], CHUNK_TOKENS
        for sequence in asked:
            text = self._texts[sequence]
            pending = sequence.tokens[text.num_computed : sequence.num_tokens]
            if len(pending) <= room:
                ready.append(sequence)
                room -= len(pending)
            elif room:
                self._forward([text], [pending[:room]])
                room = 0
        return ready

    def _next(self, ready: list[Sequence], guesses: Mapping[Sequence, list[int]]) -> dict[Sequence, int]:
        """What comes after the text of each and its guesses so far, where it can be drawn."""
        texts = [self._texts[sequence] for sequence in ready]
        news = [
            np.array(guesses[sequence][-1:], np.int32)
            if guesses[sequence]
            else sequence.tokens[text.num_computed : sequence.num_tokens]
            for sequence, text in zip(ready, texts, strict=True)
        ]
        logits = self._forward(texts, news)
        return self._drawn(ready, logits, [len(guesses[sequence]) for sequence in ready])

    def _drawn(self, ready: list[Sequence], logits: Floats, ahead: list[int]) -> dict[Sequence, int]:
        """A token for each; none where logits are no numbers: the target does not need these guesses."""
        try:
            tokens: list[int] = self._sample(logits, **unruled_arguments(ready, ahead))[0].tolist()
        except ValueError as error:
            if len(ready) == 1:
                self._complain(error)
                return {}
            alone = (self._drawn([one], logits[i : i + 1], [ahead[i]]) for i, one in enumerate(ready))
            return {sequence: token for drawn in alone for sequence, token in drawn.items()}
        return dict(zip(ready, tokens, strict=True))

    def _forward(self, texts: list[_Text], news: list[Ints]) -> Floats:
        """Compute new tokens of each text; logits after the last ones."""
        parts = [
            Part(tokens, text.num_computed, text.pages) for text, tokens in zip(texts, news, strict=True)
        ]
        tokens, starts, contexts, pages = batch_of(parts)
        logits = self._runner.forward(tokens, starts, contexts, pages, starts[1:] - 1)
        for text, new in zip(texts, news, strict=True):
            text.tokens[text.num_computed : text.num_computed + len(new)] = new
            text.num_computed += len(new)
        return self._fitted(logits)

    def _fitted(self, logits: Floats) -> Floats:
        """Logits of the target's tokens; it draws none that the draft model lacks."""
        missing = self._vocab_size - logits.shape[1]
        if missing <= 0:
            return np.ascontiguousarray(logits[:, : self._vocab_size])
        return np.pad(logits, ((0, 0), (0, missing)), constant_values=-np.inf)

    def _complain(self, error: ValueError) -> None:
        if not self._has_complained:
            logger.warning("the draft model's guesses are left out where it cannot draw: %s", error)
        self._has_complained = True
