"""Work on many files by several threads; the first error, or Ctrl-C, ends all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from wf_stores.store import Advance

NUM_THREADS = 8
T = TypeVar("T")


class _EndedError(Exception):
    """Of a thread that another one's error ended."""


def nothing(_num_bytes: int) -> None:
    """Where nobody wants to know how far it is."""


def in_parallel(work: Callable[[T, Advance], None], items: Iterable[T], advance: Advance) -> None:
    """Calls `work(item, advance)` for each item.

    Args:
        advance: called by one thread at a time; what it raises ends all.

    Raises:
        BaseException: the first that any of them raised.
    """
    ended, lock = threading.Event(), threading.Lock()

    def guarded(num_bytes: int) -> None:
        with lock:
            if ended.is_set():
                raise _EndedError
            advance(num_bytes)

    def one(item: T) -> None:
        try:
            if not ended.is_set():
                work(item, guarded)
        except BaseException:
            ended.set()
            raise

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if any(not future.done() for future in futures):
                ended.set()
            pool.shutdown(cancel_futures=True)
    raised = [future.exception() for future in futures if not future.cancelled()]
    for error in sorted(filter(None, raised), key=lambda error: isinstance(error, _EndedError)):
        raise error
