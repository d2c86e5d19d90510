"""The log of a job as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from wf_deployer.backends.fields import is_there
from wf_formats.run_files import last_lines

_POLL_S = 0.3


def follow_log(
    log: Path, last: int | None, follow: bool, is_over: Callable[[], bool], state_every_s: float = 0.0
) -> Iterator[str]:
    """Pieces of a file: all, or the `last` lines; with `follow` what is added until the job is over.

    Args:
        state_every_s: Least time between two questions `is_over`, for those that others have to answer.

    Raises: CommandError for a log that is no regular file.
    """
    is_there(log)
    position = 0
    if last is not None:
        position = log.stat().st_size
        yield "".join(f"{line}\n" for line in last_lines(log, last))
    asked_s = -state_every_s
    ends = not follow
    while True:
        if follow and time.monotonic() - asked_s >= state_every_s:
            ends = is_over()  # asked before reading, so that nothing written until then is missed
            asked_s = time.monotonic()
        text, position = _read(log, position)
        yield text
        if ends:
            return
        time.sleep(_POLL_S)


def _read(log: Path, position: int) -> tuple[str, int]:
    """The log from a byte position on, and the position after it."""
    with log.open("rb") as file:
        file.seek(position)
        data = file.read()
    return data.decode("utf-8", errors="replace"), position + len(data)
