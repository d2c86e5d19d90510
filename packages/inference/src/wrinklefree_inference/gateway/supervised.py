"""A child that is started again whenever it ends, with a growing pause.

The first start is different: what ends then never worked (a model that cannot be loaded, a library that
cannot be had), and is the caller's to report.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable

from wf_formats.errors import UserError
from wf_formats.printable import printable
from wrinklefree_inference.gateway.child import Child

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
_PROVEN_S = 60.0  # after so long the pause begins anew
_TOLD_LINES = 5
_KEPT_LINES = 50
_log = logging.getLogger(__name__)


class ChildFailedError(UserError, RuntimeError):
    """A child ended before it was ready; the message is its own line of error, the exit code too."""

    def __init__(self, reason: str, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class Supervised:
    """One child.

    Subclasses make it (`spawn`) and say when it can be used (`until_ready`).

    Args:
        name: What it is called in the log.
        show: Called with each line that it writes.
        first_pause_s: Before it is started again; doubled with every time, up to LONGEST_PAUSE_S.
    """

    def __init__(self, name: str, show: Callable[[str], None], first_pause_s: float = FIRST_PAUSE_S) -> None:
        self.name = name
        self.restarts = 0
        self.is_up = False
        self._show, self._first_pause_s = show, first_pause_s
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the child that runs."""
        return self._child.pid if self._child is not None and self._child.is_running else None

    def spawn(self) -> Child:
        """Start the process."""
        raise NotImplementedError

    async def until_ready(self, child: Child) -> None:
        """Return when it can be used; whether it ends before is not looked at here."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it for the first time.

        Raises:
            ChildFailedError: It has ended before it was ready.
        """
        self._lines.clear()
        child = self._child = self.spawn()
        ready, ended = asyncio.ensure_future(self.until_ready(child)), asyncio.ensure_future(child.wait())
        try:
            await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise self._failure(ended.result())
            ready.result()
        except BaseException:
            await child.stop(0)
            raise
        finally:
            ready.cancel()
            ended.cancel()
        self.is_up = True

    async def keep(self) -> None:
        """Start it again whenever it ends, until this is cancelled."""
        pause_s = self._first_pause_s
        while True:
            if self.is_up:
                since_s = time.monotonic()
                assert self._child is not None
                code = await self._child.wait()
                self.is_up = False
                if time.monotonic() - since_s > _PROVEN_S:
                    pause_s = self._first_pause_s
                _log.error(
                    "%s %s; it is started again in %g s",
                    self.name,
                    self._end(code),
                    pause_s,
                    extra=self._told(),
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                await self.start()
            except UserError as error:
                _log.error("%s did not start again: %s; next try in %g s", self.name, error, pause_s)
            else:
                self.restarts += 1
                _log.info("%s runs again", self.name)

    async def stop(self, grace_s: float) -> None:
        """End it."""
        self.is_up = False
        if self._child is not None:
            await self._child.stop(grace_s)

    def tell(self, line: str) -> None:
        """Take a line that the child has written."""
        if line.strip():
            self._lines.append(line)
            self._show(line)

    def _failure(self, code: int) -> ChildFailedError:
        """Its own line of error, if it has one."""
        reasons = [line for line in self._lines if line.startswith("error: ")]
        if reasons:
            return ChildFailedError(reasons[-1].removeprefix("error: "), code if code > 0 else 1)
        last = printable(self._lines[-1]) if self._lines else "it wrote nothing"
        return ChildFailedError(f"{self.name} {self._end(code)} before it was ready: {last}")

    def _end(self, code: int) -> str:
        if code >= 0:
            return f"ended with exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}"

    def _told(self) -> dict[str, dict[str, object]]:
        lines = [printable(line) for line in list(self._lines)[-_TOLD_LINES:]]
        return {"fields": {"pid": self._child.pid if self._child else None, "last_lines": lines or None}}
