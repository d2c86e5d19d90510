"""Asking again: what a backend's library does not retry itself (an answer that ends in its middle, say)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from wf_stores.errors import UnavailableError
from wf_stores.store import Patience

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 20.0
T = TypeVar("T")


def patiently(call: Callable[[], T], patience: Patience) -> T:
    """What `call` returns; called again, after growing pauses, as long as there is time.

    Raises: UnavailableError, when there is none.
    """
    end_s, pause_s = time.monotonic() + patience.total_s, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except UnavailableError:
            if time.monotonic() + pause_s > end_s:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
