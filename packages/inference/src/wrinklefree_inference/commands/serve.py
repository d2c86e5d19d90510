"""`serve`: an OpenAI-compatible server until SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from wrinklefree_inference.errors import EngineError


def serve(
    model: Annotated[Path, typer.Option(help="GGUF file.")],
    host: Annotated[str, typer.Option(help="Address; other than loopback needs --api-key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    api_key: Annotated[
        str | None, typer.Option(envvar="WF_API_KEY", help="Key that requests must carry.")
    ] = None,
    context: Annotated[int, typer.Option(min=16, help="Tokens of context for each parallel request.")] = 4096,
    parallel: Annotated[int, typer.Option(min=1, help="Requests answered at the same time.")] = 2,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores if not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Id in /v1/models; the file's name if not given.")] = None,
    web_ui: Annotated[bool, typer.Option(help="Show llama.cpp's own chat page at /.")] = False,
) -> None:
    """Serve a model to OpenAI clients.

    Example: python -m wrinklefree_inference serve --model model.gguf --port 8080
    """
    from wrinklefree_inference.server import ServerOptions, start_server

    stop = threading.Event()
    try:
        server = start_server(
            ServerOptions(model, host, port, context, parallel, threads, api_key, name, web_ui)
        )
    except (EngineError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    typer.echo(f"serving {model.name} at {server.listening_address}/v1 (Ctrl-C stops)")
    stop.wait()
    typer.echo("stopping", err=True)
    del server  # its destructor closes the connections and the port
