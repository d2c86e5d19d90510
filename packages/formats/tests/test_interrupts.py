"""Ctrl-C while a library works."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from wf_formats.interrupts import interrupts_later


@pytest.fixture(autouse=True)
def _python_handles_interrupts() -> Iterator[None]:
    """In the background shells have them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_comes_after_the_work() -> None:
    before, done = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interrupts_later():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_beside_an_error_is_not_lost() -> None:
    def work() -> None:
        with interrupts_later():
            signal.raise_signal(signal.SIGINT)
            raise OSError("full")

    with pytest.raises(KeyboardInterrupt) as found:
        work()
    assert isinstance(found.value.__context__, OSError)


def test_an_error_of_the_work_is_its_own() -> None:
    with pytest.raises(OSError, match="full"), interrupts_later():
        raise OSError("full")
    with interrupts_later():
        pass


def test_an_ignored_interrupt_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_later():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_may_use_it() -> None:
    done: list[bool] = []

    def work() -> None:
        with interrupts_later():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
