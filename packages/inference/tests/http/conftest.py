"""The application over the toy engine: in this process, on a loopback port, or as a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest

from wrinklefree_inference.http.app import HttpApp, create_server
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.listening import bind, url_of
from wrinklefree_inference.http.run import Drain, DrainingServer
from wrinklefree_inference.options import HttpOptions, ListenOptions

TOY = Path(__file__).with_name("toy_engine.py")


@pytest.fixture(scope="session")
def toy(module_of: Callable[[Path], ModuleType]) -> ModuleType:
    """The module `toy_engine`."""
    return module_of(TOY)


@pytest.fixture
def engine(toy: ModuleType) -> Any:
    return toy.ToyEngine()


@pytest.fixture
def server(engine: Any) -> HttpApp:
    return create_server(engine)


class Http:
    """A plain and an OpenAI client of an application, without sockets."""

    def __init__(self, server: HttpApp, headers: dict[str, str] | None = None) -> None:
        transport = httpx.ASGITransport(server.app, raise_app_exceptions=True, client=("127.0.0.1", 1))
        self.plain = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)
        self.openai = openai.AsyncOpenAI(
            api_key="none", base_url="http://127.0.0.1/v1", http_client=self.plain, max_retries=0
        )

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.plain.post(path, json={"model": "org/toy"} | body)


@pytest.fixture
def talk() -> Callable[..., Any]:
    """`talk(server, coroutine_function)` runs it with an `Http` in a new event loop."""

    def run(server: HttpApp, work: Callable[[Http], Awaitable[Any]], **options: Any) -> Any:
        async def main() -> Any:
            http = Http(server, **options)
            async with http.plain:
                return await work(http)

        return asyncio.run(main())

    return run


@asynccontextmanager
async def _listening(server: HttpApp, drain: Drain | None = None) -> AsyncIterator[str]:
    listener = bind(ListenOptions(port=0))
    running = DrainingServer(server, drain, 0.2)
    task = asyncio.create_task(running._serve([listener]))  # without uvicorn's signal handlers
    try:
        while not running.started:
            await asyncio.sleep(0.005)
        yield url_of(listener)
    finally:
        running.stop()
        await task


@pytest.fixture
def listening() -> Callable[..., Any]:
    """Asynchronous context of a server on a loopback port; gives its URL."""
    return _listening


@pytest.fixture(scope="session")
def listening_of_module() -> Callable[..., Any]:
    """The same for fixtures that live longer than a test."""
    return _listening


@pytest.fixture
def in_thread(in_thread_of_module: Callable[..., Any]) -> Callable[..., Any]:
    """Context of a toy server in a thread; gives its URL and its engine."""
    return in_thread_of_module


@pytest.fixture(scope="session")
def in_thread_of_module(toy: ModuleType) -> Callable[..., Any]:
    """The same for fixtures that live longer than a test."""

    @contextmanager
    def serve(
        options: HttpOptions | None = None, keys: Sequence[str] = (), **engine_options: Any
    ) -> Iterator[tuple[str, Any]]:
        ready: threading.Event = threading.Event()
        found: list[Any] = []

        async def main() -> None:
            engine = toy.ToyEngine(**engine_options)
            server = create_server(engine, options or HttpOptions(), keys=ApiKeys.of(keys))
            async with _listening(server, engine.drain) as url:
                stop = asyncio.Event()
                found.extend([url, engine, asyncio.get_running_loop(), stop])
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert ready.wait(10)
        try:
            yield found[0], found[1]
        finally:
            found[2].call_soon_threadsafe(found[3].set)
            thread.join(10)

    return serve


@pytest.fixture
def process() -> Callable[..., Any]:
    """Context of a toy server as a process; gives it and its URL."""

    @contextmanager
    def start(
        delay_s: float, shutdown_timeout_s: float, descriptors: int | None = None, stderr: str | None = None
    ) -> Iterator[tuple[subprocess.Popen[str], str]]:
        log: Any = subprocess.PIPE if stderr is None else Path(stderr).open("w")  # noqa: SIM115 - `start` is the context
        limit = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"] if descriptors else []
        child = subprocess.Popen(
            [*limit, sys.executable, str(TOY), str(delay_s), str(shutdown_timeout_s)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        with child, nullcontext() if stderr is None else log:
            try:
                assert child.stdout is not None
                yield child, child.stdout.readline().strip()
            finally:
                if child.poll() is None:
                    child.kill()

    return start
