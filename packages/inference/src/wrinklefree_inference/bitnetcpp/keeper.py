"""Runs a command until it ends or stdin does: a server that ends with whoever started it, `kill -9` included.

    python -m wrinklefree_inference.bitnetcpp.keeper COMMAND...

Whoever starts it holds the other end of stdin and writes nothing. Of what the command prints the last lines
are kept in memory, and given out when it ends: a log of months would fill a disk, and may have prompts in it.
The exit code is the command's, 128 + N for one that signal N ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from functools import partial

from wf_formats.lifeline import end_with

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""
KEPT_LINES, LINE_BYTES = 100, 1000


def main() -> None:
    """Entry."""
    child = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=partial(end_with, os.getpid()),  # should this process be killed itself
    )
    threading.Thread(target=_end_with_input, args=[child], daemon=True).start()
    printed = child.stdout
    assert printed is not None
    last = deque(iter(lambda: printed.readline(LINE_BYTES), b""), KEPT_LINES)
    code = child.wait()
    sys.stdout.buffer.write(b"".join(last))
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)  # without waiting for the thread, which may read still


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
