"""A child process: its lines as they come, and its end at once.

asyncio's own `Process.wait` returns when the last process that holds the pipes has ended, which may be a
grandchild much later; a pidfd tells of the child alone. What is left of its process group is killed with it.
Linux only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

_LINE_BYTES = 8192
_LAST_WORDS_S = 0.5


class Child:
    """A running process, in a process group of its own: Ctrl-C in the terminal is for the gateway alone.

    Args:
        command: The program and its arguments.
        tell: Called with every line of standard error, and of standard output after the first.
        environment: Of the process.
        has_input: It reads what `write` is given, and the end of it when we end; else it reads nothing.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        tell: Callable[[str], None],
        environment: Mapping[str, str],
        has_input: bool = False,
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
        self._tell = tell
        loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = loop.create_future()
        self._first: asyncio.Future[str] = loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._ended)
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        self._reading = [asyncio.ensure_future(self._read_out(out)), asyncio.ensure_future(self._read(err))]

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self._code.done()

    async def first_line(self) -> str:
        """Of standard output; "" if it ends without one."""
        return await asyncio.shield(self._first)

    def write(self, line: str) -> None:
        """Send a line, which must fit into a pipe at once; nothing happens if it reads no more."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    async def wait(self) -> int:
        """Its exit code, -N after signal N, once it has ended and its last lines are told."""
        return await asyncio.shield(self._code)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM and the end of its input; SIGKILL for its whole group after `grace_s`."""
        self._close_input()
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait([self._code], timeout=grace_s)
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
        await self.wait()

    def _ended(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        with suppress(ProcessLookupError):  # what it has started; its number is its own until the next line
            os.killpg(self.pid, signal.SIGKILL)
        self._finishing = loop.create_task(self._finish(self._process.wait()))

    async def _finish(self, code: int) -> None:
        """A grandchild may hold the pipes: what it says later is nobody's last words."""
        self._close_input()
        await asyncio.wait(self._reading, timeout=_LAST_WORDS_S)
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        if not self._first.done():
            self._first.set_result("")
        self._code.set_result(code)

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    async def _read_out(self, pipe: IO[bytes]) -> None:
        def take(line: str) -> None:
            if self._first.done():
                self._tell(line)
            else:
                self._first.set_result(line)

        await self._read(pipe, take)

    async def _read(self, pipe: IO[bytes], take: Callable[[str], None] | None = None) -> None:
        """Lines of any bytes; a long one comes in pieces."""
        take = take or self._tell
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            rest = b""
            while piece := await reader.read(_LINE_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    take(line.decode(errors="replace"))
            if rest:
                take(rest.decode(errors="replace"))
        finally:
            transport.close()
