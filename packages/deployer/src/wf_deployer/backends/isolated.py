"""A program of ours in an environment of its own (`wf_formats.isolated_python`).

`isolated_child.py` loads the program and calls its `answers(request)`:

    request     one JSON value on standard input, so secrets stand on no command line
    answers     a line of JSON each on standard output, in the order in which they are yielded
    error       an exception of the program: the names of its classes, and its text
    {"each": [...]}    several requests to one process: one answer or error for each, in their order

What the program or its library print goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from wf_deployer.errors import CommandError, CommandRequestError
from wf_formats.isolated_python import NO_UV, isolated_python
from wf_formats.printable import printable
from wf_formats.secrets import redacted

_CHILD = Path(__file__).with_name("isolated_child.py")
_GRACE_S = 5.0
_TAIL_BYTES = 8192


class LateError(CommandError):
    """A program has not answered in the time that it had. Attributes: timeout_s: That time."""

    def __init__(self, program: str, timeout_s: float) -> None:
        super().__init__(f"{program} has not answered within {timeout_s:.0f} s; try again")
        self.timeout_s = timeout_s


class ProgramError(CommandError):
    """An exception of the program.

    Attributes:
        kinds: Its class and their bases, such as "modal.exception.AuthError", the most special first.
        reason: Its text, in one line.
        trace: Where it was, for whoever looks for a fault of the program.
    """

    def __init__(self, kinds: Sequence[str], reason: str, trace: str = "") -> None:
        super().__init__(f"{kinds[0]}: {reason}")
        self.kinds, self.reason, self.trace = list(kinds), reason, trace


@dataclass(frozen=True)
class IsolatedProgram:
    """A Python file with `answers(request)`, and what it needs.

    Attributes:
        requirement: As pip takes it, such as "modal>=1.6,<2"; the only one.
        path: Of the file; it imports that requirement and the standard library.
    """

    requirement: str
    path: Path

    def ask(self, request: Any, *, shown: bool = False, timeout_s: float | None = None) -> Any:
        """The one answer to a request. Raises: as `stream`; CommandError after `timeout_s`."""
        (answer,) = list(self.stream(request, shown=shown, timeout_s=timeout_s))
        return answer

    def ask_each(self, requests: Sequence[Any], *, timeout_s: float) -> list[Any]:
        """One process for several requests. Returns: an answer to each, or the CommandError why it has none.

        Args:
            timeout_s: Of all of them; those without an answer by then have a LateError.
        """
        answers: list[Any] = []
        if not requests:
            return answers
        missing: CommandError = CommandError(f"{self.path.name} ended without an answer")
        with closing(self._messages({"each": list(requests)}, False, timeout_s)) as messages:
            try:
                for message in messages:
                    error = message.get("error")
                    answers.append(message["answer"] if error is None else _program_error(error))
            except CommandError as told:
                missing = told
        return answers + [missing] * (len(requests) - len(answers))

    def stream(self, request: Any, *, shown: bool = False, timeout_s: float | None = None) -> Iterator[Any]:
        """The answers as they come; who stops reading ends the program.

        Args:
            request: What JSON can hold.
            shown: What is printed goes to our standard error at once, else it is left out.
            timeout_s: Of the whole program; None: as long as it takes.

        Raises:
            ProgramError: the program ended by an exception.
            CommandRequestError: there is no uv, or it cannot give the requirement; in its words.
            LateError: it has not answered in the time.
            CommandError: the program ended in another way.
        """
        with closing(self._messages(request, shown, timeout_s)) as messages:
            for message in messages:
                if (error := message.get("error")) is not None:
                    raise _program_error(error)
                yield message["answer"]

    def _messages(
        self, request: Any, shown: bool, timeout_s: float | None
    ) -> Generator[dict[str, Any], None, None]:
        with tempfile.TemporaryFile() as printed:
            process = _start(self._command, None if shown else printed)
            is_late = threading.Event()
            timer = threading.Timer(timeout_s or 0, _end_late, (process, is_late))
            if timeout_s is not None:
                timer.start()
            try:
                _hand_over(process, request)
                assert process.stdout is not None
                begun = process.stdout.readline() == b'{"begun": true}\n'
                for line in process.stdout if begun else ():
                    if line.endswith(b"\n"):  # not one that it was killed in
                        yield json.loads(line)
                if process.wait() == 0 and begun:
                    return
                if is_late.is_set() and timeout_s is not None:
                    raise LateError(self.path.name, timeout_s)
                words = "" if shown else _tail(printed)
                if begun:
                    raise CommandError(f"{self.path.name} ended with exit code {process.returncode}: {words}")
                raise CommandRequestError(
                    f"uv cannot give {self.requirement}: {words or 'its words are above'}"
                )
            finally:
                timer.cancel()
                _end(process)

    @property
    def _command(self) -> list[str]:
        return isolated_python(self.requirement, str(_CHILD), str(self.path))


def _program_error(error: dict[str, Any]) -> ProgramError:
    return ProgramError(error["kinds"], _one_line(error["reason"]), error["trace"])


def _start(command: list[str], printed: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that all of it can be ended."""
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandRequestError(NO_UV) from error


def _hand_over(process: subprocess.Popen[bytes], request: Any) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # uv has given up; it says why
        process.stdin.write(json.dumps(request).encode())


def _end(process: subprocess.Popen[bytes]) -> None:
    """uv passes TERM on to the program; what is still there after a while is killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _end_late(process: subprocess.Popen[bytes], is_late: threading.Event) -> None:
    is_late.set()
    os.killpg(process.pid, signal.SIGKILL)


def _tail(printed: IO[bytes]) -> str:
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _TAIL_BYTES))
    return _one_line(printed.read().decode(errors="replace"))


def _one_line(text: str) -> str:
    return printable(redacted(" ".join(text.split())).removeprefix("error: "), most_chars=600)
