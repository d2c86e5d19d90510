"""The one thread that runs the steps, and the orders that other threads give it.

Orders (a new request, a cancellation, a job) are taken between two steps. What a step produced is put into
its readers' inboxes (`Sequence.sink`), then `notify` is called, so the receiving side is woken once per step.
An exception in a step ends every request with an `EngineError` and leaves the worker failed: it answers
nothing more, but never hangs.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.core import Core, NoRunner
from wrinklefree_inference.native.request import Delta, EngineBusy, EngineStats
from wrinklefree_inference.native.sequence import Sequence

logger = logging.getLogger(__name__)

Delivery = list[tuple[Sequence, Delta | EngineError]]
Result = TypeVar("Result")

RECENT_FINISHES = 32
RETRY_AFTER_S = (1.0, 5.0, 120.0)  # at least, before anything has finished, at most


class Worker:
    """Runs a `Core`.

    Args:
        notify: Called in the worker thread with what a step has put into the queues; must not block.
    """

    def __init__(self, core: Core, notify: Callable[[Delivery], None] = lambda events: None) -> None:
        self.core = core
        self._notify = notify
        self._condition = threading.Condition()
        self._arrived: deque[Sequence] = deque()
        self._cancelled: deque[Sequence] = deque()
        self._jobs: deque[tuple[Future[Any], Callable[[Core], Any], int]] = deque()
        self._active: set[Sequence] = set()
        self._is_closing = False
        self._error: str | None = None
        self._finish_times_s: deque[float] = deque(maxlen=RECENT_FINISHES)
        self._num_requests = self._num_finished = self._num_cancelled = 0
        self._thread = threading.Thread(target=self._run, name="native-engine", daemon=True)
        self._thread.start()
        # A thread that comes back from C++ while the interpreter goes down ends the process badly.
        atexit.register(self.close)

    @property
    def error(self) -> str | None:
        """Why the worker answers no more."""
        return self._error

    def submit(self, sequence: Sequence) -> None:
        """Queue a request.

        Raises:
            EngineBusy: As many run and wait as the limits allow.
            EngineError: The worker is closed or has failed.
        """
        queue = self.core.scheduler.queue
        with self._condition:
            self._check_alive()
            if len(self._active) >= queue.max_running + queue.max_waiting:
                raise EngineBusy(self._retry_after_s(), queue.max_waiting)
            self._active.add(sequence)
            self._arrived.append(sequence)
            self._num_requests += 1
            self._condition.notify()

    def cancel(self, sequence: Sequence) -> None:
        """Drop a request before the next step; nothing happens if it has ended."""
        if sequence.is_done:
            return
        # No lock: this may run in a destructor, in a thread that holds it. The deque is thread-safe and
        # a worker with something active never sleeps.
        self._cancelled.append(sequence)

    def call(self, job: Callable[[Core], Result], num_pages: int) -> Future[Result]:
        """Run `job` between two steps, once `num_pages` pages are available.

        No request is admitted meanwhile, so that the pages are there soon.

        Raises:
            ValueError: The cache does not have so many pages.
            EngineError: The worker is closed or has failed.
        """
        total = self.core.scheduler.cache.num_pages
        if num_pages > total:
            raise ValueError(f"the cache has {total} pages, {num_pages} are needed")
        future: Future[Result] = Future()
        with self._condition:
            self._check_alive()
            self._jobs.append((future, job, num_pages))
            self._condition.notify()
        return future

    def close(self) -> None:
        """End all requests, wait for the step that is being computed and let the decoder go."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join()
        atexit.unregister(self.close)
        self.core.runner = NoRunner()

    def stats(self) -> EngineStats:
        """A snapshot."""
        scheduler, counters = self.core.scheduler, self.core.counters
        running = len(scheduler.running)
        return EngineStats(
            running=running,
            waiting=max(0, len(self._active) - running),
            queue_limit=scheduler.queue.max_waiting,
            kv_pages_used=scheduler.cache.num_used,
            kv_pages_cached=scheduler.cache.num_cached,
            kv_pages_total=scheduler.cache.num_pages,
            prompt_tokens_total=counters.prompt_tokens,
            generated_tokens_total=counters.generated_tokens,
            prefix_hit_tokens_total=scheduler.hit_tokens,
            requests_total=self._num_requests,
            finished_total=self._num_finished,
            cancelled_total=self._num_cancelled,
            preemptions_total=scheduler.num_preemptions,
            steps_total=counters.steps,
            last_step_seconds=counters.last_step_s,
            step_seconds_total=counters.step_s,
            forward_seconds_total=counters.forward_s,
            healthy=self._error is None,
            error=self._error,
        )

    def _check_alive(self) -> None:
        if self._error is not None:
            raise EngineError(self._error)
        if self._is_closing:
            raise EngineError("the engine is closed")

    def _retry_after_s(self) -> float:
        """When half of the queue is likely to be gone, at the recent pace of finished requests.

        The next finished request makes room for one, but everybody who was refused comes back for it.
        """
        least, unknown, most = RETRY_AFTER_S
        times = self._finish_times_s
        if len(times) < 2:
            return unknown
        interval_s = (time.monotonic() - times[0]) / len(times)
        return min(max(interval_s * self.core.scheduler.queue.max_waiting / 2, least), most)

    def _run(self) -> None:
        reason = "the engine was closed before the answer was complete"
        try:
            while self._take_orders():
                self._run_jobs()
                if self.core.scheduler.has_work:
                    self._settle(self.core.step())
        except Exception as error:
            logger.exception("the engine stops: a step failed")
            reason = self._error = f"the engine has failed ({type(error).__name__}: {error}): restart it"
        with self._condition:
            self._is_closing = True
            unanswered, self._active = list(self._active), set()
            jobs, self._jobs = self._jobs, deque()
        for future, _, _ in jobs:
            future.set_exception(EngineError(reason))
        if unanswered:
            self._deliver([(sequence, EngineError(reason)) for sequence in unanswered])

    def _take_orders(self) -> bool:
        """Wait until there is something to do; False if that is to end."""
        scheduler = self.core.scheduler
        with self._condition:
            while not (self._active or self._jobs or self._is_closing):
                self._condition.wait()
            while self._arrived:
                scheduler.add(self._arrived.popleft())
            cancelled: Delivery = []
            while self._cancelled:
                sequence = self._cancelled.popleft()
                if sequence in self._active:
                    self._active.discard(sequence)
                    scheduler.finish(sequence)
                    cancelled.append((sequence, EngineError("the request was cancelled")))
            self._num_cancelled += len(cancelled)
            is_open = not self._is_closing
        if cancelled:
            self._deliver(cancelled)
        return is_open

    def _run_jobs(self) -> None:
        """Run the jobs whose pages are there."""
        scheduler = self.core.scheduler
        while self._jobs and scheduler.cache.num_available >= self._jobs[0][2]:
            future, job, _ = self._jobs.popleft()
            try:
                future.set_result(job(self.core))
            except Exception as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(error)
        scheduler.is_admitting = not self._jobs

    def _deliver(self, events: Delivery) -> None:
        for sequence, event in events:
            sequence.sink.put(event)
        self._notify(events)

    def _settle(self, events: list[tuple[Sequence, Delta]]) -> None:
        """Book the answers that a step completed and hand out what it produced."""
        finished = [sequence for sequence, delta in events if delta.finish_reason is not None]
        if finished:
            with self._condition:
                self._active.difference_update(finished)
            self._num_finished += len(finished)
            self._finish_times_s.extend([time.monotonic()] * len(finished))
        if events:
            self._deliver(list(events))
