"""The native engine for asyncio: many requests at a time on one decoder.

`submit_to` makes a `Sequence` and gives it to the worker thread, which puts the new deltas of a step into
their readers' inboxes and schedules one callback in the event loop that wakes the readers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from functools import partial
from typing import Any

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.blocks.limits import NO_GRAMMAR
from wrinklefree_inference.native.grammar import Grammar, GrammarError
from wrinklefree_inference.native.inbox import Inbox, Slot
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import EngineStats, GenerationRequest
from wrinklefree_inference.native.restarts import Restarts
from wrinklefree_inference.native.sequence import Sequence
from wrinklefree_inference.native.worker import Delivery, Worker, is_last
from wrinklefree_inference.options import QueueOptions
from wrinklefree_inference.tool_calls.forms import ToolForm

logger = logging.getLogger(__name__)


class AsyncNativeEngine:
    """An `AsyncEngine`. Make and use it in one event loop; `close` it at the end.

    Args:
        model: Decoder, tokenizer and sampler (`native.loading.load_native_model`).
        model_id: Name that clients use; None takes the model's.
        restarts: How often it begins anew after a failed step.
    """

    def __init__(
        self,
        model: NativeModel,
        queue: QueueOptions | None = None,
        model_id: str | None = None,
        restarts: Restarts | None = None,
    ) -> None:
        self.model_id = model_id or model.name
        self.created = int(time.time())
        self._model = model
        self.embedding_size, self.facts = model.hidden_size, model.facts
        self._core = model.new_core(queue)
        self.context_tokens = self._core.scheduler.context_tokens
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_draining = False
        self._unanswered: dict[Sequence, Inbox] = {}
        self._answered = asyncio.Event()
        self._worker = Worker(self._core, self._notify, restarts or Restarts())

    def tokenize_chat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        tools: SequenceOf[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation in the model's chat template, which may know `variables` and `tools`."""
        return self._model.tokenize_chat(messages, variables, tools)

    def tool_form(self) -> ToolForm:
        """How the model writes calls."""
        return self._model.template_tools.form

    def compile(self, grammar: str, parts: Mapping[str, str]) -> Grammar:
        """A grammar that answers are held to.

        Raises:
            GrammarError: It is none, or the model draws no token after the other.
        """
        if self._model.diffusion is not None:
            raise GrammarError(NO_GRAMMAR, next(iter(parts), None))
        return self._model.grammars.compile(grammar, parts)

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, with the special tokens that the model expects before it."""
        return self._model.tokenize(text)

    def submit_to(self, inbox: Inbox, number: int, request: GenerationRequest) -> Callable[[], None]:
        """Queue a request whose deltas go to `inbox` under a number.

        Returns:
            What cancels it.

        Raises:
            EngineBusy: The queue is full.
            RequestTooLong: Prompt and answer can never fit.
            ValueError: The prompt is empty or has ids that the model does not know.
            BadField: Another field of the request has.
            EngineError: The engine is draining, closed or broken.
        """
        self._bind(asyncio.get_running_loop())
        if self._is_draining:
            raise EngineError("the engine is shutting down and takes no more requests")
        self._core.scheduler.check_fits(len(request.prompt_ids), request.max_answer_tokens)
        slot = Slot(inbox, number, self._core.scheduler.queue.max_unread)
        sequence = self._model.new_sequence(request, slot, slot.is_full)
        self._worker.submit(sequence)
        self._unanswered[sequence] = inbox
        logger.debug("request %s: %d prompt tokens", request.id, len(request.prompt_ids))
        return partial(self._worker.cancel, sequence)

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

    def _notify(self, events: Delivery) -> None:
        """Runs in the worker's thread."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_readers, events)

    def _wake_readers(self, events: Delivery) -> None:
        for sequence, event in events:
            self._unanswered[sequence].wake()
            if is_last(event):
                del self._unanswered[sequence]
        if not self._unanswered:
            self._answered.set()
