"""How `serve` runs each engine; imported once its options are known to fit.

The HTTP server's modules are imported last: a model is loaded meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from wf_formats.chat_template import stop_rendering
from wf_formats.printable import printable
from wrinklefree_inference.http import logs
from wrinklefree_inference.http.listening import bind, url_of
from wrinklefree_inference.keys import keys_of
from wrinklefree_inference.options import (
    BitnetCppServerOptions,
    HttpOptions,
    LlamaCppServerOptions,
    NativeServerOptions,
    ProxyOptions,
    SglangServerOptions,
    StockServerOptions,
    VllmServerOptions,
)

_LOOK_S = 0.5
"""Between two looks at a server that is a process of its own."""

if TYPE_CHECKING:
    from wrinklefree_inference.http.app import HttpApp
    from wrinklefree_inference.http.auth import ApiKeys
    from wrinklefree_inference.http.run import Drain, DrainingServer
    from wrinklefree_inference.http.upstream import Upstream
    from wrinklefree_inference.stock.programs import Program

Made = TypeVar("Made")


def serve_native(options: NativeServerOptions) -> None:
    """Load the model, then serve it."""
    from wrinklefree_inference.native.loading import import_kernels, load_native_model

    keys = keys_of(options.listen)
    with bind(options.listen) as listener:
        logs.configure(options.http.log_format)
        with _without_collector():
            import_kernels()
            loading = _in_background(partial(load_native_model, options.model, options.engine, options.cache))
            from wrinklefree_inference.http.app import create_server
            from wrinklefree_inference.http.auth import ApiKeys
            from wrinklefree_inference.native.async_engine import AsyncNativeEngine
            from wrinklefree_inference.native.grammar import stop_trials

        try:
            model = loading.result()
        except BaseException:
            gc.unfreeze()  # else the error keeps what was loaded until there are no types to free it by
            raise

        async def run() -> None:
            engine = AsyncNativeEngine(model, options.queue, options.engine.model_id)
            server = create_server(engine, options.http, options.answers, ApiKeys.of(keys))
            try:
                await _listen(
                    server, listener, options.http.shutdown_timeout_s, engine.model_id, engine.drain
                )
            finally:
                stop_rendering()  # what is left of it, of requests that were cut off
                stop_trials()
                await engine.close()

        asyncio.run(run())


def serve_openai(options: ProxyOptions) -> None:
    """Pass requests on to another server."""
    from wrinklefree_inference.http.auth import ApiKeys
    from wrinklefree_inference.http.upstream import Upstream

    keys = ApiKeys.of(keys_of(options.listen))
    listener = bind(options.listen)
    logs.configure(options.http.log_format)
    with listener:
        make = partial(Upstream, options.model, options.upstream_api_key, options.upstream_timeout_s)
        asyncio.run(_pass_on(make, options.http, keys, listener))


async def _pass_on(
    make: Callable[[], Upstream],
    http: HttpOptions,
    keys: ApiKeys,
    listener: socket.socket,
    name: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Requests to the server that `make` gives; named by its URL where there is no name."""
    from wrinklefree_inference.http.proxy import create_proxy

    upstream = make()
    server = create_proxy(upstream, http, keys)
    try:
        await _listen(server, listener, http.shutdown_timeout_s, name or upstream.url, check=check)
    finally:
        await upstream.aclose()


def serve_vllm(options: VllmServerOptions) -> None:
    """Start vLLM in its environment, and pass requests on to it; it ends with this process."""
    from wrinklefree_inference.stock.programs import VLLM

    _serve_stock(VLLM, options)


def serve_sglang(options: SglangServerOptions) -> None:
    """Start SGLang in its environment, and pass requests on to it; it ends with this process."""
    from wrinklefree_inference.stock.programs import SGLANG

    _serve_stock(SGLANG, options)


def _serve_stock(program: Program, options: StockServerOptions) -> None:
    from wrinklefree_inference.http.auth import ApiKeys
    from wrinklefree_inference.http.upstream import Upstream
    from wrinklefree_inference.stock.server import start_server

    keys = ApiKeys.of(keys_of(options.listen))
    with bind(options.listen) as listener:
        logs.configure(options.http.log_format)
        starting = f"starting {program.name} (about a minute)"
        stock = start_server(program, options, on_start=lambda: typer.echo(starting, err=True))
        make = partial(Upstream, stock.kept.url, stock.key, options.upstream_timeout_s)
        try:
            asyncio.run(_pass_on(make, options.http, keys, listener, stock.model_id, stock.kept.check))
        finally:
            stock.close()


def serve_llamacpp(options: LlamaCppServerOptions) -> None:
    """llama.cpp's own server in this process."""
    from wrinklefree_inference.llamacpp.server import start_server

    server = start_server(options)
    stop = _on_signal()
    _announce(Path(options.model).name, server.listening_address)
    stop.wait()
    typer.echo("stopping", err=True)
    del server  # its destructor closes the connections and the port


def serve_bitnetcpp(options: BitnetCppServerOptions) -> None:
    """The llama-server of a build of bitnet.cpp, a process of its own that ends with this one."""
    from wrinklefree_inference.bitnetcpp.server import start_server

    stop = _on_signal()
    server = start_server(options, stop)
    try:
        if not stop.is_set():
            _announce(Path(options.model).name, server.url)
        while not stop.wait(_LOOK_S):
            server.check()
        typer.echo("stopping", err=True)
    finally:
        server.close()


def _on_signal() -> threading.Event:
    """Set by Ctrl-C and SIGTERM from now on."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


@contextmanager
def _without_collector() -> Iterator[None]:
    """For imports: what they make stays, and looking at it again and again is a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _in_background(make: Callable[[], Made]) -> Future[Made]:
    """What a thread makes, or why it could not; a program that ends does not wait for it."""
    future: Future[Made] = Future()

    def run() -> None:
        try:
            future.set_result(make())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks, a panic of Rust too
            future.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return future


async def _listen(
    server: HttpApp,
    listener: socket.socket,
    shutdown_timeout_s: float,
    name: str,
    drain: Drain | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Args: check: raises when it makes no sense to go on; asked now and then."""
    from wrinklefree_inference.http.run import DrainingServer

    gc.freeze()  # model and modules stay: the collector need not look at them (`http/memory.py`)
    running = DrainingServer(server, drain, shutdown_timeout_s, lambda: _announce(name, url_of(listener)))
    watching = asyncio.create_task(_watch(check, running))
    await running.serve(sockets=[listener])
    if watching.done():
        watching.result()
    watching.cancel()


async def _watch(check: Callable[[], None], running: DrainingServer) -> None:
    """Until `check` raises, which ends the server."""
    try:
        while True:
            await asyncio.sleep(_LOOK_S)
            check()
    except Exception:
        running.stop()
        raise


def _announce(name: str, url: str) -> None:
    typer.echo(f"serving {printable(name)} at {url}/v1 (Ctrl-C stops)")
