"""Runs a command until it ends or stdin does: a server that ends with whoever started it, `kill -9` included.

    python -m wrinklefree_inference.kept.keeper COMMAND...

Whoever starts it holds the other end of stdin and writes nothing. Of what the command prints the last lines
are kept in memory, and given out when it ends: a log of months would fill a disk, and may have prompts in it.
The exit code is the command's, 128 + N for one that signal N ended. What the command started itself is in its
process group, and is ended after it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import IO

from wf_formats.lifeline import end_with

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""
LEFT_S = 10.0
"""The same for what the command has left."""
KEPT_LINES, LINE_BYTES = 100, 1000


def main() -> None:
    """Entry."""
    child = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=partial(end_with, os.getpid()),  # should this process be killed itself
        process_group=0,
    )
    threading.Thread(target=_end_with_input, args=[child], daemon=True).start()
    printed = child.stdout
    assert printed is not None
    last: deque[bytes] = deque(maxlen=KEPT_LINES)
    reading = threading.Thread(target=_keep, args=[printed, last], daemon=True)
    reading.start()
    code = child.wait()
    _end_group(child.pid)
    reading.join(GRACE_S)  # what has left the group may hold the output open
    sys.stdout.buffer.write(b"".join(last))
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)  # without waiting for the thread, which may read still


def _end_group(group: int) -> None:
    """What the command has left: it may have something to tidy up, shared memory say."""
    with suppress(ProcessLookupError):  # once there is none
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + LEFT_S
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


def _keep(printed: IO[bytes], last: deque[bytes]) -> None:
    last.extend(iter(lambda: printed.readline(LINE_BYTES), b""))


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1 << 12):
        pass
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    main()
