"""A Python program of ours that does what comes from anywhere, seen from here: a line out, a line back.

It is one process for all lines, started with the first and gone with this process. The system limits its
memory and its computing time (`limited_worker.py`); where it goes beyond them it is gone, and the next line
starts another. Whoever asks waits, so an event loop hands it to a thread.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading

from wf_formats.limited_worker import WALL_S


class ProcessEndedError(Exception):
    """It went beyond its limits, or ended by itself; the message says how."""


class LimitedProcess:
    """Threads take turns.

    Args:
        module: run as `python -m MODULE SECONDS`; calls `limited_worker.answer_lines`.
        computing_s: processor time of one line.
    """

    def __init__(self, module: str, computing_s: float) -> None:
        self._module, self._computing_s = module, computing_s
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, line: bytes) -> bytes:
        """The answer to a line, which ends in a line break as the answer does.

        Raises:
            ProcessEndedError: it went beyond its limits.
        """
        with self._lock:
            answer = self._answer(line)
            if not answer.endswith(b"\n"):
                raise ProcessEndedError(self._stop())
        return answer

    def start(self) -> None:
        """Have the worker get ready while others do something else."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the worker and what it does; the next line starts another."""
        worker = self._worker
        if worker is not None and self._owner == os.getpid():
            worker.kill()  # before the lock, which whoever waits for its answer holds
        with self._lock:
            self._stop()

    def _answer(self, line: bytes) -> bytes:
        worker = self._running()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
            return worker.stdout.readline()
        except BrokenPipeError:
            return b""

    def _running(self) -> subprocess.Popen[bytes]:
        """The worker of this process: after a fork the parent's is not ours to talk to."""
        if self._worker is None or self._owner != os.getpid() or self._worker.poll() is not None:
            if self._worker is not None and self._owner == os.getpid():
                self._stop()
            self._worker = subprocess.Popen(
                [sys.executable, "-P", "-m", self._module, str(self._computing_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us
            )
            self._owner = os.getpid()
            atexit.register(self.close)
        return self._worker

    def _stop(self) -> str:
        """Wait for the worker's end; how it came to it."""
        worker, self._worker = self._worker, None
        if worker is None or self._owner != os.getpid():
            return "it was stopped"
        atexit.unregister(self.close)
        with worker:
            worker.kill()
        return self._explained(worker.returncode)

    def _explained(self, returncode: int) -> str:
        if returncode == -signal.SIGPROF:
            return f"it computes for more than {self._computing_s:g} s"
        if returncode == -signal.SIGALRM:
            return f"it takes more than {WALL_S:g} s"
        if returncode == -signal.SIGKILL:
            return "its process was killed, for want of memory perhaps"
        if returncode < 0:
            return f"its process ended by signal {-returncode} ({signal.strsignal(-returncode)})"
        return f"its process ended by itself (exit code {returncode})"
