"""An application under uvicorn until SIGTERM or Ctrl-C, which ends it with exit code 0.

Shutdown: new requests get 503 and /health says `draining`, running answers may end within the given time,
what is left then is cancelled. A second signal ends it at once. The port stays open while answers run, so
that clients are told instead of refused.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.http.app import HttpApp
from wrinklefree_inference.options import ListenOptions

_FLUSH_S = 2.0  # for the last bytes of answers whose generation has ended
_log = logging.getLogger(__name__)


def bind(listen: ListenOptions) -> socket.socket:
    """A listening address; port 0 takes a free one.

    Raises:
        EngineError: It is taken, or not this machine's.
    """
    host, port = listen.host, listen.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise EngineError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """`http://address:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """uvicorn with the shutdown of this module.

    Args:
        server: What to serve.
        drain: Ends what runs within a time in seconds; afterwards the last bytes are sent.
        on_start: Called when connections are taken.
    """

    def __init__(
        self,
        server: HttpApp,
        drain: Callable[[float], Awaitable[None]],
        shutdown_timeout_s: float = 30.0,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                server.app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a client must not choose its own address
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._lifecycle, self._drain, self._timeout_s = server.lifecycle, drain, shutdown_timeout_s
        self._on_start = on_start
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_start()

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
            await self._drain(self._timeout_s)
            await self._lifecycle.wait_until_idle(_FLUSH_S)
        finally:
            self.should_exit = True


def wait_for_answers(server: HttpApp) -> Callable[[float], Awaitable[None]]:
    """A `drain` for applications without an engine."""

    async def drain(timeout_s: float) -> None:
        await server.lifecycle.wait_until_idle(timeout_s)

    return drain
