"""How `serve` runs each engine; imported once its options are known to fit."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import typer

from wrinklefree_inference.http import logs
from wrinklefree_inference.http.app import HttpOptions, Server, create_server
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.limits import Limits
from wrinklefree_inference.http.run import DrainingServer, bind, url_of, wait_for_answers

Options = dict[str, Any]  # of `commands.serve.serve`

_DEFAULT_CONTEXT_TOKENS = 4096


def serve_native(options: Options) -> None:
    """Load the model, then serve it."""
    from wrinklefree_inference.native.engine import NativeEngine

    http = _http_options(options)
    listener = bind(options["host"], options["port"], bool(http.keys))
    logs.configure(options["log_format"] or "text")

    async def run() -> None:
        engine = NativeEngine.load(
            Path(options["model"]),
            model_id=options["model_id"],
            context_tokens=options["context"],
            num_threads=options["threads"],
            cache_tokens=options["kv_cache_tokens"],
            cache_gb=options["kv_cache_gb"],
            cache_type=options["kv_cache_type"] or "f16",
            max_running=options["max_running"],
            max_waiting=options["max_waiting"],
            max_batch_tokens=options["max_batch_tokens"],
        )
        try:
            await _listen(create_server(engine, http), listener, options, engine.model_id, engine.drain)
        finally:
            await engine.close()

    with listener:
        asyncio.run(run())


def serve_openai(options: Options) -> None:
    """Pass requests on to another server."""
    from wrinklefree_inference.http.proxy import Upstream, create_proxy

    http = _http_options(options)

    async def run() -> None:
        upstream = Upstream(options["model"], options["upstream_api_key"])
        server = create_proxy(upstream, http)
        try:
            await _listen(server, listener, options, upstream.url, wait_for_answers(server))
        finally:
            await upstream.aclose()

    listener = bind(options["host"], options["port"], bool(http.keys))
    logs.configure(options["log_format"] or "text")
    with listener:
        asyncio.run(run())


def serve_llamacpp(options: Options) -> None:
    """llama.cpp's own server in this process."""
    from wrinklefree_inference.llamacpp.server import ServerOptions, start_server

    keys = ApiKeys.of(options["api_key"] or (), options["api_key_file"]).keys
    if len(keys) > 1:
        raise ValueError(f"llama.cpp's server takes one API key, {len(keys)} were given")
    model = Path(options["model"])
    server = start_server(
        ServerOptions(
            model,
            options["host"],
            options["port"],
            options["context"] or _DEFAULT_CONTEXT_TOKENS,
            options["parallel"] or 2,
            options["threads"],
            keys[0].decode() if keys else None,
            options["model_id"],
            options["web_ui"],
        )
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    _announce(model.name, server.listening_address)
    stop.wait()
    typer.echo("stopping", err=True)
    del server  # its destructor closes the connections and the port


SERVERS: dict[str, Callable[[Options], None]] = {
    "native": serve_native,
    "llamacpp": serve_llamacpp,
    "openai": serve_openai,
}


def _http_options(options: Options) -> HttpOptions:
    given = {
        "body_bytes": None if options["max_body_mb"] is None else int(options["max_body_mb"] * 1_000_000),
        "output_tokens": options["max_output_tokens"],
        "choices": options["max_choices"],
    }
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    keys = ApiKeys.of(options["api_key"] or (), options["api_key_file"])
    return HttpOptions(keys, limits, options["allow_origin"] or ())


async def _listen(
    server: Server, listener: Any, options: Options, name: str, drain: Callable[[float], Awaitable[None]]
) -> None:
    timeout_s = options["shutdown_timeout"]
    running = DrainingServer(
        server, drain, 30.0 if timeout_s is None else timeout_s, lambda: _announce(name, url_of(listener))
    )
    await running.serve(sockets=[listener])


def _announce(name: str, url: str) -> None:
    typer.echo(f"serving {name} at {url}/v1 (Ctrl-C stops)")
