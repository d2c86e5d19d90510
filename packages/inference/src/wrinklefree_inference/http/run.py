"""An application under uvicorn until SIGTERM or Ctrl-C, which ends it with exit code 0.

Shutdown: new requests get 503 and /health says `draining`; those that were taken, whether they are being
read, rendered, waiting or running, have the given time. What is left then is ended: by the engine, whose
streams say so, else with 503; a stream that cannot be told is broken off. A second signal ends it all at
once. The port stays open while answers run, so that clients are told instead of refused.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import cast

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from wrinklefree_inference.http.app import HttpApp
from wrinklefree_inference.http.connections import ACCEPTED_AT_ONCE, ConnectionLimits, ConnectionTable
from wrinklefree_inference.http.logs import log_loop_error
from wrinklefree_inference.http.protocol import GuardedProtocol

_END_S = 0.3  # for answers to tell that the engine has ended
_FLUSH_S = 2.0  # for the last bytes of what was cut off
_CHECK_TICKS = 5  # of uvicorn's 0.1 s, between two looks at all connections
_BACKLOG = 2048  # connections that the kernel holds until they are accepted
_log = logging.getLogger(__name__)


Drain = Callable[[float], Awaitable[None]]


class DrainingServer(uvicorn.Server):
    """uvicorn with the shutdown of this module.

    Args:
        server: What to serve.
        drain: Ends what runs in the engine within a time in seconds; None: there is no engine.
        on_start: Called when connections are taken.

    Raises:
        EngineError: This process may not open as many connections as were asked for.
    """

    def __init__(
        self,
        server: HttpApp,
        drain: Drain | None = None,
        shutdown_timeout_s: float = 30.0,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                server.app,
                http=GuardedProtocol,
                backlog=ACCEPTED_AT_ONCE,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a client must not choose its own address
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        limits = ConnectionLimits.of(server.options, server.other_descriptors)
        self.server_state = ConnectionTable(limits, server.options)
        self._lifecycle, self._drain, self._timeout_s = server.lifecycle, drain, shutdown_timeout_s
        self._on_start = on_start
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(log_loop_error)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # again: asyncio takes one number for this and for how many it accepts
        self._on_start()

    async def on_tick(self, counter: int) -> bool:
        """Now and then look at the connections."""
        if counter % _CHECK_TICKS == 0:
            now_s = time.monotonic()
            for connection in list(self.server_state.connections):
                cast("GuardedProtocol", connection).check(now_s)
            self._lifecycle.large_bodies.give_back(now_s)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections; there are answers left only after a second signal."""
        self._lifecycle.cut_off()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Until the end of the process: one that comes while it is being taken down must not kill it."""
        for number in HANDLED_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield
        for number in HANDLED_SIGNALS:
            signal.signal(number, lambda *_: os._exit(0))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops; uvicorn's own would raise it again at the end."""
        if self._lifecycle.is_draining or self._loop is None:
            self.force_exit = self.should_exit = True
            return
        self._lifecycle.is_draining = True
        _log.info("stopping on %s", signal.Signals(sig).name)
        self._loop.call_soon_threadsafe(self._begin_stopping)

    def stop(self) -> None:
        """What the first signal does, from the event loop."""
        self._lifecycle.is_draining = True
        self._begin_stopping()

    def _begin_stopping(self) -> None:
        self._stopping = asyncio.ensure_future(self._stop())

    async def _stop(self) -> None:
        try:
            if not await self._lifecycle.wait_until_idle(self._timeout_s):
                _log.warning("%d requests are ended after %g s", self._lifecycle.inflight, self._timeout_s)
                await self._end_what_is_left()
        finally:
            self.should_exit = True

    async def _end_what_is_left(self) -> None:
        if self._drain is not None:
            await self._drain(0.0)
        if not await self._lifecycle.wait_until_idle(_END_S):
            self._lifecycle.cut_off()
            await self._lifecycle.wait_until_idle(_FLUSH_S)
