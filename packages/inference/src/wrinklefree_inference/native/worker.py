"""The one thread that runs the steps, and the orders that other threads give it.

Orders (a new request, a cancellation, a job) are taken between two steps. What a step produced is put into
its readers' inboxes (`Sequence.sink`), then `notify` is called, so the receiving side is woken once per step.
An exception in a step ends every request that has begun with an `EngineError`; then the engine begins anew
with those that wait (`restarts.py`). If that is of no use either, the worker is failed: it answers nothing
more, but never hangs.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from wf_formats.errors import RequestError
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.core import Core
from wrinklefree_inference.native.request import AnswerFailed, Delta, EngineBusy, EngineStats
from wrinklefree_inference.native.restarts import Restarts
from wrinklefree_inference.native.sequence import Sequence

logger = logging.getLogger(__name__)

Delivery = list[tuple[Sequence, Delta | EngineError]]
Result = TypeVar("Result")

RECENT_FINISHES = 32
RETRY_AFTER_S = (1.0, 5.0, 120.0)  # at least, before anything has finished, at most
LOOK_AGAIN_S = 0.05
"""Between two looks at readers that are behind, when nothing else is to do."""


class Worker:
    """Runs a `Core`.

    Args:
        notify: Called in the worker thread with what a step has put into the queues; must not block.
        restarts: How often it begins anew; not at all if not given.
    """

    def __init__(
        self,
        core: Core,
        notify: Callable[[Delivery], None] = lambda events: None,
        restarts: Restarts | None = None,
    ) -> None:
        self.core = core
        self._notify = notify
        self._restarts = restarts or Restarts(())
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
            EngineBusy: As many run and wait as the limits allow, and the client has its share of them.
            EngineError: The worker is closed or has failed.
        """
        with self._condition:
            self._check_alive()
            self._check_room(sequence.request.client)
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
            raise RequestError(f"the cache has {total} pages, {num_pages} are needed")
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
        self.core.release()

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
            guessed_tokens_total=counters.guessed_tokens,
            accepted_tokens_total=counters.accepted_tokens,
            decoding_passes_total=counters.decoding_passes,
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
            restarts_total=self._restarts.num_total,
            last_error=self._restarts.last_error,
        )

    def _check_alive(self) -> None:
        if self._error is not None:
            raise EngineError(self._error)
        if self._is_closing:
            raise EngineError("the engine is closed")

    def _check_room(self, client: str) -> None:
        """Raise EngineBusy for a client that has its share of a full queue.

        One that has less is let in nevertheless, or whoever comes first could keep all others out. With k
        clients the queue is at most 1 + 1/2 + ... + 1/k times as long as its limit.
        """
        queue = self.core.scheduler.queue
        places = queue.max_running + queue.max_waiting
        if len(self._active) < places:
            return
        counts = Counter(sequence.request.client for sequence in self._active)
        share = places // len({*counts, client})
        if counts[client] >= max(share, 1):
            raise EngineBusy(self._retry_after_s(), queue.max_waiting)

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
        while (error := self._serve()) is not None:
            reason = f"the engine has failed ({type(error).__name__}: {error})"
            pause_s = self._restarts.pause_after(error)
            if pause_s is None:
                reason = self._error = f"{reason}: restart it"
                break
            self._begin_anew(f"{reason} and begins anew: ask again", pause_s)
        self._end(reason)

    def _serve(self) -> Exception | None:
        """Run steps until the worker is closed, or one fails."""
        try:
            while self._take_orders():
                self._run_jobs()
                if self.core.scheduler.has_work:
                    self._settle(self.core.step())
        except Exception as error:
            logger.exception("the engine stops: a step failed")
            return error
        return None

    def _begin_anew(self, reason: str, pause_s: float) -> None:
        """End what has begun, forget the cache and wait a while."""
        lost = set(self.core.start_anew())
        with self._condition:
            lost = {sequence for sequence in lost if sequence in self._active}
            self._active -= lost
        if lost:
            self._deliver([(sequence, EngineError(reason)) for sequence in lost])
        logger.warning("the engine begins anew in %.1f s; %d requests were ended", pause_s, len(lost))
        with self._condition:
            self._condition.wait_for(lambda: self._is_closing, pause_s)

    def _end(self, reason: str) -> None:
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
            if not (self._arrived or self._jobs or self._is_closing or scheduler.has_work):
                self._condition.wait(LOOK_AGAIN_S)  # all readers are behind
            while self._arrived:
                scheduler.add(self._arrived.popleft())
            ended = self._cancelled_now() + self._forsaken_now()
            is_open = not self._is_closing
        if ended:
            self._deliver(ended)
        return is_open

    def _cancelled_now(self) -> Delivery:
        cancelled: Delivery = []
        while self._cancelled:
            sequence = self._cancelled.popleft()
            if sequence in self._active:
                self._drop(sequence)
                cancelled.append((sequence, EngineError("the request was cancelled")))
        self._num_cancelled += len(cancelled)
        return cancelled

    def _forsaken_now(self) -> Delivery:
        """Ends answers that nobody has read for too long."""
        scheduler, limit_s = self.core.scheduler, self.core.scheduler.queue.unread_timeout_s
        forsaken: Delivery = []
        for sequence, since_s in list(scheduler.paused.items()):
            if time.monotonic() - since_s > limit_s:
                self._drop(sequence)
                forsaken.append((sequence, AnswerFailed(f"nobody has read it for {limit_s:g} s")))
        self._num_cancelled += len(forsaken)
        return forsaken

    def _drop(self, sequence: Sequence) -> None:
        self._active.discard(sequence)
        self.core.finish(sequence)

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

    def _settle(self, events: Delivery) -> None:
        """Book the answers that a step completed and hand out what it produced."""
        ended = [sequence for sequence, event in events if is_last(event)]
        if ended:
            with self._condition:
                self._active.difference_update(ended)
            num_finished = sum(isinstance(event, Delta) and is_last(event) for _, event in events)
            self._num_finished += num_finished
            self._finish_times_s.extend([time.monotonic()] * num_finished)
            if num_finished:
                self._restarts.note_success()
        if events:
            self._deliver(events)


def is_last(event: Delta | EngineError) -> bool:
    """Whether it ends its answer."""
    return isinstance(event, EngineError) or event.finish_reason is not None
