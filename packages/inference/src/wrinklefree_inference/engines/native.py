"""GGUF files and Hugging Face folders in this process, by our own decoder.

Requests of several threads run together (`native.worker`); scores are computed between two steps and
share the cache of prefixes with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from wf_formats.errors import RequestError
from wrinklefree_inference.engines.base import (
    AnswerStream,
    Counts,
    Message,
    ModelFacts,
    Sampling,
    TokenScores,
    check_scored_range,
)
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.blocks.limits import NO_SCORES
from wrinklefree_inference.native.loading import load_native_model
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.pages import pages_for
from wrinklefree_inference.native.request import Delta, GenerationRequest, SamplingParams
from wrinklefree_inference.native.scoring import score
from wrinklefree_inference.native.worker import Worker
from wrinklefree_inference.options import CacheOptions, EngineOptions, QueueOptions


class NativeEngine:
    """One model: an `Engine` and a `Scorer`.

    Args:
        model: GGUF file, Hugging Face folder, or a model that is loaded already.
        options: Context and threads; not used for a model that is loaded already.
        cache: Size of its cache, likewise.
        queue: How many requests run together.

    Raises:
        EngineError: The model cannot be loaded; the message says why.
    """

    def __init__(
        self,
        model: str | Path | NativeModel,
        options: EngineOptions | None = None,
        cache: CacheOptions | None = None,
        queue: QueueOptions | None = None,
    ) -> None:
        self.path = None if isinstance(model, NativeModel) else Path(model)
        self._model = model if isinstance(model, NativeModel) else load_native_model(model, options, cache)
        core = self._model.new_core(queue)
        self.context_tokens = core.scheduler.context_tokens
        self._worker = Worker(core)

    @property
    def facts(self) -> ModelFacts:
        """Name, size of the files, parameters, context and packed format."""
        return replace(self._model.facts, context_tokens=self.context_tokens)

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AnswerStream:
        """The assistant's next turn, through the model's own chat template."""
        return AnswerStream(self._pieces(partial(self._model.tokenize_chat, messages), sampling))

    def complete(self, prompt: str, sampling: Sampling) -> AnswerStream:
        """The continuation of plain text, without a template."""
        return AnswerStream(self._pieces(partial(self._model.tokenize, prompt), sampling))

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without special tokens around it."""
        return self._model.tokenizer.encode(text, False)

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it.

        Args:
            ids: Token ids, at least two and at most `context_tokens`.
            start: First position to score, in [1, len(ids) - 1].

        Raises:
            RequestError: The model is no autoregressive one.
            ValueError: Too many ids, an id outside the vocabulary, or a bad `start`.
            EngineError: The engine is closed.
        """
        if self._model.diffusion is not None:
            raise RequestError(NO_SCORES)
        check_scored_range(len(ids), start, self.context_tokens)
        self._model.check_ids(ids)
        job = partial(score, ids=ids, start=start)
        return self._worker.call(job, pages_for(len(ids) - 1)).result()

    def close(self) -> None:
        """End what runs and free the model; calling it again does nothing."""
        self._worker.close()
        self._model = self._model.released()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _pieces(self, tokenize: partial[list[int]], sampling: Sampling) -> Iterator[str | Counts]:
        """Text as it comes, then the tokens."""
        events: SimpleQueue[Delta | EngineError] = SimpleQueue()
        try:
            sequence = self._model.new_sequence(self._request(tokenize(), sampling), events)
        except ValueError as error:
            raise EngineError(str(error)) from error
        self._worker.submit(sequence)
        first_tokens = None
        try:
            while True:
                event = events.get()
                if isinstance(event, EngineError):
                    raise event
                if event.text:
                    first_tokens = first_tokens or event.completion_tokens
                    yield event.text
                if event.finish_reason is not None:
                    yield Counts(event.prompt_tokens, event.completion_tokens, first_tokens)
                    return
        finally:
            self._worker.cancel(sequence)

    def _request(self, prompt_ids: Sequence[int], sampling: Sampling) -> GenerationRequest:
        """An answer is cut at the end of the context, as other engines do."""
        room = self.context_tokens - len(prompt_ids)
        if room < 1:
            raise ValueError(
                f"{len(prompt_ids)} prompt tokens and an answer exceed the context of "
                f"{self.context_tokens} tokens: shorten the prompt"
            )
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=min(sampling.max_tokens, room),
            stop=sampling.stop,
        )
        return GenerationRequest(tuple(prompt_ids), params, id="local")
