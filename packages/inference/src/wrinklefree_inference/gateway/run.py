"""`wf gateway` until SIGTERM or Ctrl-C.

Who needs what key: clients those of the command line; the router and our own workers one that is made here
and stands in no command line and no file (standard input, environment). Servers by URL have keys of their
own; the router knows one key alone, so then that one is everybody's behind us.

The end: requests that were taken are answered (`http/run.py`), then workers and router end; a second signal
ends all at once. If we are killed, the kernel ends the workers (`worker_program.py`) and the router sees the
end of its input.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial

import typer

from wf_formats.environment import num_cores
from wf_formats.printable import legible, printable
from wrinklefree_inference.commands.flags import arguments_of
from wrinklefree_inference.gateway.face import create_gateway
from wrinklefree_inference.gateway.fleet import Fleet
from wrinklefree_inference.gateway.options import DEFAULT_WORKERS, GatewayOptions, RemoteOptions
from wrinklefree_inference.gateway.router import Router
from wrinklefree_inference.gateway.worker import Worker
from wrinklefree_inference.http import logs
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.listening import bind, url_of
from wrinklefree_inference.http.run import DrainingServer
from wrinklefree_inference.http.upstream import Upstream
from wrinklefree_inference.keys import keys_of
from wrinklefree_inference.options import ListenOptions, LogForm, NativeServerOptions

_GRACE_S = 5.0


def run_gateway(face: NativeServerOptions | RemoteOptions, options: GatewayOptions) -> None:
    """Serve.

    Args:
        face: Our HTTP server; with a model, the servers that we start as well.
    """
    keys = ApiKeys.of(keys_of(face.listen))
    listener = bind(face.listen)
    logs.configure(face.http.log_format)
    with listener:
        asyncio.run(_run(face, options, keys, listener))


async def _run(
    face: NativeServerOptions | RemoteOptions, options: GatewayOptions, keys: ApiKeys, listener: socket.socket
) -> None:
    key = options.worker_api_key or secrets.token_urlsafe(32)
    workers = workers_of(face, options, key) if isinstance(face, NativeServerOptions) else []
    fleet = Fleet(workers, options.urls, Router(options.policy, key, face.http.body_bytes), key)
    upstream = Upstream(fleet.router.url, key, options.upstream_timeout_s)
    grace_s = 0.0
    try:
        own = f"{len(workers)} x wf serve and " if workers else ""
        typer.echo(f"starting {own}the router", err=True)
        await fleet.start()
        app = create_gateway(fleet, upstream, face.http, keys)
        running = DrainingServer(
            app, None, face.http.shutdown_timeout_s, lambda: _announce(fleet, url_of(listener))
        )
        await _serve(running, fleet, listener)
        grace_s = 0.0 if running.force_exit else _GRACE_S
    finally:
        await fleet.stop(grace_s)
        await upstream.aclose()


async def _serve(running: DrainingServer, fleet: Fleet, listener: socket.socket) -> None:
    keeping = asyncio.ensure_future(fleet.keep())
    keeping.add_done_callback(lambda task: None if task.cancelled() else running.stop())
    try:
        await running.serve(sockets=[listener])
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


def workers_of(face: NativeServerOptions, options: GatewayOptions, key: str) -> list[Worker]:
    """The servers that we start; each gets its share of the cores, unless --threads says otherwise."""
    number = options.workers or DEFAULT_WORKERS
    is_json = face.http.log_format is LogForm.JSON
    return [
        Worker(
            f"worker {place}",
            worker_arguments(face, threads),
            key,
            partial(_show, "" if is_json else f"[worker {place}] "),
        )
        for place, threads in enumerate(shares(face.engine.num_threads, number), start=1)
    ]


def shares(given: int | None, number: int, cores: int | None = None) -> list[int]:
    """Threads of each worker: `given`, or all cores divided, one at least."""
    if given is not None:
        return [given] * number
    cores = cores or num_cores()
    return [max(1, cores // number + (place < cores % number)) for place in range(number)]


def worker_arguments(face: NativeServerOptions, threads: int) -> list[str]:
    """Of `wf serve`: what we were given, without what is the face's alone."""
    inner = replace(
        face,
        listen=ListenOptions(),
        engine=replace(face.engine, num_threads=threads),
        http=replace(face.http, allow_origins=None, max_connections=None, max_connections_per_client=None),
    )
    return [f"--model={face.model}", *arguments_of(inner)]


def _show(prefix: str, line: str) -> None:
    if not line.startswith("error: "):  # that is told as the worker's end
        sys.stderr.write(f"{prefix}{legible(line)}\n")


def _announce(fleet: Fleet, url: str) -> None:
    names = printable(", ".join(fleet.models.cards))
    typer.echo(f"serving {names} at {url}/v1 by {len(fleet.all_urls)} workers (Ctrl-C stops)")
