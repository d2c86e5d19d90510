"""The process in which templates are rendered, seen from here: one line of JSON out, one line back."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from wf_formats.chat_template.limits import COMPUTING_S, WALL_S
from wf_formats.chat_template.replies import KINDS, TemplateTooCostlyError, TemplateUnfitError

_WORKER = [sys.executable, "-P", "-m", "wf_formats.chat_template.worker"]


class Renderer:
    """Renders templates one after another; threads take turns. The worker is started when it is needed.

    Args:
        computing_s: processor time of one rendering.
    """

    def __init__(self, computing_s: float = COMPUTING_S) -> None:
        self._computing_s = computing_s
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def render(self, source: str, values: Mapping[str, Any]) -> str:
        """The text.

        Raises:
            ChatTemplateError: of the kind that the worker names, or because it ended.
        """
        try:
            line = json.dumps({"source": source, "values": values}).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateUnfitError(f"the chat template refuses these messages: {error}") from error
        with self._lock:
            answer = self._ask(line)
            if not answer.endswith(b"\n"):
                raise TemplateTooCostlyError(f"the chat template goes beyond its limits: {self._stop()}")
        reply = json.loads(answer)
        if "text" in reply:
            text: str = reply["text"]
            return text
        raise KINDS[reply["kind"]](reply["reason"])

    def start(self) -> None:
        """Have the worker get ready while others do something else."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the worker and what it renders; the next rendering starts another."""
        worker = self._worker
        if worker is not None and self._owner == os.getpid():
            worker.kill()  # before the lock, which whoever waits for its answer holds
        with self._lock:
            self._stop()

    def _ask(self, line: bytes) -> bytes:
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
                [*_WORKER, str(self._computing_s)],
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
        if returncode == -signal.SIGSEGV:
            return "it is nested too deep for its process"
        how = signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
        return f"its process ended by itself ({how})"


RENDERER = Renderer()
