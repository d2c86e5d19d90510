"""The engine requests behind one HTTP request: submitted together, read together, cancelled together."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.http.errors import invalid
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.record import RequestRecord
from wrinklefree_inference.http.responses import CompletionDetails, CompletionUsage, PromptDetails
from wrinklefree_inference.native.inbox import Inbox, InboxEvent
from wrinklefree_inference.native.interface import AsyncEngine
from wrinklefree_inference.native.request import BadField, Delta, GenerationRequest, RequestTooLong

Arrivals = list[tuple[int, Delta]]  # number of the choice, what was added to it


class Generation:
    """Answers to several requests, as they come.

    Whoever has started it closes it. One that is dropped instead, read or not, cancels its requests too: they
    would run to the end for nobody.

    Args:
        engine: Takes the requests at once: what it refuses is raised here, before a response has begun.
        requests: One for each choice.
        choices_per_prompt: That many in a row have the same prompt.
        record: Filled with tokens and times.
        metrics: Gets the times.
        param: Field of the request that the prompts are made of.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        requests: Sequence[GenerationRequest],
        choices_per_prompt: int,
        record: RequestRecord,
        metrics: Metrics,
        param: str = "prompt",
    ) -> None:
        self._inbox = Inbox()
        self._cancels: list[Callable[[], None]] = []
        # May run in any thread: it touches nothing of the loop's.
        weakref.finalize(self, _cancel_all, self._cancels).atexit = False
        self._choices_per_prompt, self._record, self._metrics = choices_per_prompt, record, metrics
        self._latest: list[Delta | None] = [None] * len(requests)
        self._times_s = [record.started] * len(requests)
        self._engine, self._requests, self._param = engine, requests, param

    async def start(self) -> None:
        """Submit all, or none.

        Raises:
            EngineBusy: The queue is full.
            RequestTooLong: One cannot fit.
            EngineError: The engine is broken or closing.
            ApiError: The engine refuses a prompt.
        """
        try:
            for index, request in enumerate(self._requests):
                self._cancels.append(self._engine.submit_to(self._inbox, index, request))
        except BaseException as error:
            await self.aclose()
            if isinstance(error, BadField):
                raise invalid(str(error), error.field) from error
            if isinstance(error, ValueError) and not isinstance(error, RequestTooLong):
                raise invalid(f"{self._param}: {error}", self._param) from error
            raise

    async def arrivals(self, keep_alive_s: float = 15.0) -> AsyncGenerator[Arrivals, None]:
        """What has come since the last batch; empty if nothing came for `keep_alive_s`.

        Raises:
            EngineError: The engine broke, or was closed before the answers were complete.
        """
        num_open = len(self._cancels)
        try:
            while num_open:
                batch: Arrivals = []
                for index, event in await self._events(keep_alive_s):
                    if isinstance(event, EngineError):
                        raise event
                    num_open -= event.finish_reason is not None
                    self._note(index, event)
                    batch.append((index, event))
                yield batch
                if self._inbox.has_more:  # writing alone would not let others in between
                    await asyncio.sleep(0)
        finally:
            self._record_usage()
            await self.aclose()

    async def aclose(self) -> None:
        """Cancel what still runs; calling it again does nothing."""
        _cancel_all(self._cancels)
        self._inbox.close()

    async def _events(self, timeout_s: float) -> list[tuple[int, InboxEvent]]:
        """The next that is there; waits for the first, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._inbox.take()
        except TimeoutError:
            return []

    @property
    def usage(self) -> CompletionUsage:
        """Tokens so far."""
        first = [delta for delta in self._latest[:: self._choices_per_prompt] if delta]
        prompt = sum(delta.prompt_tokens for delta in first)
        latest = [delta for delta in self._latest if delta]
        completion = sum(delta.completion_tokens for delta in latest)
        return CompletionUsage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptDetails(cached_tokens=sum(d.cached_prompt_tokens for d in first)),
            completion_tokens_details=CompletionDetails(
                accepted_prediction_tokens=sum(delta.accepted_guesses for delta in latest),
                rejected_prediction_tokens=sum(delta.refused_guesses for delta in latest),
                decoding_passes=sum(delta.decoding_passes for delta in latest),
            ),
        )

    def _note(self, index: int, delta: Delta) -> None:
        now, record = time.perf_counter(), self._record
        before = self._latest[index]
        num_new = delta.completion_tokens - (before.completion_tokens if before else 0)
        if record.first_token_s is None and num_new:
            record.first_token_s = now - record.started
            self._metrics.first_token.observe(record.first_token_s)
        elif before is not None and num_new:
            self._metrics.between_tokens.observe((now - self._times_s[index]) / num_new)
        self._times_s[index], self._latest[index] = now, delta

    def _record_usage(self) -> None:
        record, usage = self._record, self.usage
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        record.cached_tokens = usage.prompt_tokens_details.cached_tokens


def _cancel_all(cancels: list[Callable[[], None]]) -> None:
    while cancels:
        cancels.pop()()
