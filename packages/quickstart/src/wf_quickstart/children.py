"""Children of a quickstart: output into a log file, progress polled, stopped cleanly.

Each child has a session of its own, so Ctrl-C reaches only the quickstart, which asks the child to stop
(training writes a checkpoint), waits, and leaves nothing behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wf_formats.run_files import last_lines
from wf_quickstart.errors import QuickstartError

STOP_TIMEOUT_S = 90.0
"""Time for a checkpoint of the packaged model to be written on a busy machine."""
_POLL_S = 0.2
_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # transformers compiles its bitnet helpers on first use: 8-18 s in each process, for one forward.
    "TORCHDYNAMO_DISABLE": "1",
    "COLUMNS": "100",
}
_DEFAULTS = {
    # OpenMP threads that wait for each other sleep after some spinning (GNU's default spins on). As fast on
    # an idle machine; with one other busy process on 2 cores 5 times as fast (0.3 s, not over 1 s).
    "GOMP_SPINCOUNT": "10000",
}
"""Unless the user has set them."""
_PROGRAM_VARIABLE = "WF_PROG"
"""The quickstart's own name; its children have theirs."""


@dataclass(frozen=True)
class Child:
    """A command of the step `title` that writes to `log`; its standard output to `output`, if given."""

    title: str
    command: Sequence[str]
    log: Path
    output: Path | None = None


def python(module: str, *arguments: str) -> list[str]:
    """Command line of an application, which is a module."""
    return [sys.executable, "-m", module, *arguments]


def run_child(child: Child, on_poll: Callable[[], None] = lambda: None) -> None:
    """Runs it to its end.

    Raises:
        QuickstartError: it failed; names the step and the log, and shows the log's last lines.
        KeyboardInterrupt: Ctrl-C; the child has been stopped.
    """
    with started(child) as process:
        while process.poll() is None:
            on_poll()
            time.sleep(_POLL_S)
    if process.returncode != 0:
        raise failure(child, process.returncode)


@contextmanager
def started(child: Child) -> Iterator[subprocess.Popen[bytes]]:
    """A running child, which is stopped at the end of the block if it still runs."""
    for path in filter(None, (child.log, child.output)):
        path.parent.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != _PROGRAM_VARIABLE}
    with ExitStack() as files:
        log = files.enter_context(child.log.open("wb"))
        process = subprocess.Popen(
            child.command,
            env=_DEFAULTS | environment | _ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log if child.output is None else files.enter_context(child.output.open("wb")),
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """SIGTERM to the child's group, SIGKILL where that does not help. Does nothing if it has ended."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: at once
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(returncode: int) -> str:
    if returncode >= 0:
        return f"failed with exit code {returncode}"
    name = {int(known): known.name for known in signal.Signals}.get(-returncode, f"signal {-returncode}")
    return f"was ended by {name}" + ("; perhaps memory ran out" if name == "SIGKILL" else "")


def failure(child: Child, returncode: int) -> QuickstartError:
    tail = "\n".join(f"  | {line}" for line in last_lines(child.log, 12))
    return QuickstartError(
        f"step {child.title!r} {_ended(returncode)}; its log {child.log} ends with:\n{tail}"
    )
