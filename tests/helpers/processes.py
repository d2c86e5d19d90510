"""Other processes, as tests look at them."""

from __future__ import annotations

import time
from pathlib import Path


def is_running(pid: int) -> bool:
    """False for what has ended, collected by its parent or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends_within(pid: int, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while (runs := is_running(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs
