"""The inside of a `limited_process.LimitedProcess`: JSON from stdin to stdout, a value a line, within limits.

Beyond the limit of memory Python raises MemoryError; beyond that of time (of the processor, for each line)
the system's signal ends the process, in the middle of whatever it does.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 512 << 20
"""Address space, 30 MB of which are Python."""
WALL_S = 30.0
"""Of one line, on a busy machine too."""


def answer_lines(answer: Callable[[Any], dict[str, Any]], out_of_memory: dict[str, Any]) -> None:
    """Answer lines until stdin ends; the program's argument is the processor time of one, in seconds.

    Args:
        answer: from a value of JSON to another.
        out_of_memory: the answer where a value needs more than there is.
    """
    computing_s = float(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        try:
            reply = _within_limits(answer, line, computing_s)
        except MemoryError:
            reply = _encoded(out_of_memory)
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()


def _within_limits(answer: Callable[[Any], dict[str, Any]], line: bytes, computing_s: float) -> bytes:
    value = json.loads(line)
    try:
        _limit_time(computing_s, WALL_S)
        return _encoded(answer(value))
    finally:
        _limit_time(0, 0)


def _encoded(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _limit_time(computing_s: float, wall_s: float) -> None:
    """Nought ends the limit."""
    signal.setitimer(signal.ITIMER_PROF, computing_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)
