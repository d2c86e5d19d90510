"""The process of one engine.

    python -m wrinklefree_inference.bench.worker ENGINE MODEL ADAPTER CACHE THREADS CONTEXT_TOKENS SEQUENCES

ADAPTER is empty where there is none, CACHE a `CacheType`.

It answers each line of stdin with one line of JSON on stdout, the loading of the model with one too:

    (start)                                   -> {"load_s": 1.2, "facts": {...}}
    {"kind": "prompt", "tokens": 128, ...}    -> {"seconds": 0.61}
    {..., "clock": "processor"}               -> {"seconds": 0.58}, of all threads together
    {"memory": true}                          -> {"rss": 830000000, ...}

What a user can mend comes as {"error": "..."}, and the process ends.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from wrinklefree_inference.bench.plan import Test
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import CacheType

_CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_MEMORY_FIELDS = {"VmRSS": "rss", "VmHWM": "peak_rss", "RssAnon": "anonymous", "RssFile": "file"}


def memory_bytes(status: str) -> dict[str, int]:
    """Fields of /proc/self/status in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)
    return {_MEMORY_FIELDS[name]: 1024 * int(value) for name, value in found if name in _MEMORY_FIELDS}


def reply(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def serve(engine: str, model: Path, adapter: Path | None, cache_type: CacheType, *numbers: int) -> None:
    """Load, then answer until stdin ends.

    Args:
        numbers: Threads, tokens of context and sequences.
    """
    from wrinklefree_inference.bench.runners import RUNNERS, seconds_of

    start = time.perf_counter()
    runner = RUNNERS[engine](model, adapter, cache_type, *numbers)
    reply(load_s=time.perf_counter() - start, facts=runner.facts)
    for line in sys.stdin:
        question = json.loads(line)
        if "memory" in question:
            reply(**memory_bytes(Path("/proc/self/status").read_text()))
        else:
            clock = _CLOCKS[question.pop("clock", "wall")]
            reply(seconds=seconds_of(runner, Test(**question), clock))


def main() -> None:
    engine, model, adapter, cache_type, *numbers = sys.argv[1:]
    try:
        beside = Path(adapter) if adapter else None
        serve(engine, Path(model), beside, CacheType(cache_type), *(int(number) for number in numbers))
    except (EngineError, ValueError, OSError) as error:
        reply(error=str(error))
    sys.stdout.flush()
    os._exit(0)  # the engines' own shutdown has nothing to add, and llama.cpp's prints


if __name__ == "__main__":
    main()
