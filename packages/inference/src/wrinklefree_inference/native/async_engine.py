"""The native engine for asyncio: many requests at a time on one decoder.

`submit` makes a `Sequence` and gives it to the worker thread; each step of the worker schedules one
callback in the event loop, which hands the new deltas to their streams.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.loading import load_native_model
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import Delta, EngineStats, GenerationRequest
from wrinklefree_inference.native.stream import Channel, TokenStream
from wrinklefree_inference.native.worker import Delivery, Worker
from wrinklefree_inference.options import CacheOptions, QueueOptions, ServedEngineOptions

logger = logging.getLogger(__name__)


class AsyncNativeEngine:
    """An `AsyncEngine`. Make and use it in one event loop; `close` it at the end.

    Args:
        model: Decoder, tokenizer and sampler (`native.loading.load_native_model`).
        model_id: Name that clients use; None takes the model's.
    """

    def __init__(
        self, model: NativeModel, queue: QueueOptions | None = None, model_id: str | None = None
    ) -> None:
        self.model_id = model_id or model.name
        self.created = int(time.time())
        self._model = model
        self._core = model.new_core(queue)
        self.context_tokens = self._core.scheduler.context_tokens
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_draining = False
        self._unanswered: set[Channel] = set()
        self._answered = asyncio.Event()
        self._worker = Worker(self._core, self._deliver)

    @classmethod
    def load(
        cls, path: str | Path, engine: ServedEngineOptions, cache: CacheOptions, queue: QueueOptions
    ) -> Self:
        """Load a model.

        Raises:
            EngineError: The model cannot be loaded.
        """
        return cls(load_native_model(path, engine, cache), queue, engine.model_id)

    def tokenize_chat(self, messages: SequenceOf[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation in the model's chat template."""
        return self._model.tokenize_chat(messages)

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, with the special tokens that the model expects before it."""
        return self._model.tokenize(text)

    def detokenize(self, ids: SequenceOf[int]) -> str:
        """Text of ids."""
        return self._model.tokenizer.decode(list(ids))

    def submit(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """Queue a request; it runs whether the stream is read or not.

        Raises:
            EngineBusy: The queue is full.
            RequestTooLong: Prompt and answer can never fit.
            ValueError: The prompt is empty or has ids that the model does not know.
            EngineError: The engine is draining, closed or broken.
        """
        self._bind(asyncio.get_running_loop())
        if self._is_draining:
            raise EngineError("the engine is shutting down and takes no more requests")
        self._core.scheduler.check_fits(len(request.prompt_ids), request.sampling.max_tokens)
        channel = Channel()
        sequence = self._model.new_sequence(request, channel)
        self._worker.submit(sequence)
        self._unanswered.add(channel)
        logger.debug("request %s: %d prompt tokens", request.id, len(request.prompt_ids))
        return TokenStream(channel, lambda: self._worker.cancel(sequence))

    def stats(self) -> EngineStats:
        """A snapshot."""
        return replace(self._worker.stats(), draining=self._is_draining)

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, answer those that are there; cancel what is left after `timeout_s`."""
        self._is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._unanswered:
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            logger.warning("%d requests are cancelled after %.1f s", len(self._unanswered), timeout_s)
            await self.close()

    async def close(self) -> None:
        """Cancel what runs, with an EngineError to its readers, and free the model."""
        self._is_draining = True
        await asyncio.to_thread(self._worker.close)
        self._model = self._model.released()
        await asyncio.sleep(0)  # the last delivery

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise EngineError("the engine is used by another event loop: make one engine per loop")

    def _deliver(self, events: Delivery) -> None:
        """Runs in the worker's thread."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, events)

    def _dispatch(self, events: Delivery) -> None:
        for sequence, event in events:
            channel: Channel = sequence.sink
            if isinstance(event, EngineError) or event.finish_reason is not None:
                self._unanswered.discard(channel)
            if not channel.is_ended:
                channel.push(event)
        if not self._unanswered:
            self._answered.set()
