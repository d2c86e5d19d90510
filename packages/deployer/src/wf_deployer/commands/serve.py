"""`wf serve`: an OpenAI-compatible server (packages/inference)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[Path, typer.Option(help="GGUF file.")],
    host: Annotated[str | None, typer.Option(help="Address (127.0.0.1); others need --api-key.")] = None,
    port: Annotated[int | None, typer.Option(help="Port (8080); 0 takes a free one.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="WF_API_KEY", help="Key that requests must carry.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of context for each request (4096).")] = None,
    parallel: Annotated[int | None, typer.Option(help="Requests answered at the same time (2).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads (all cores).")] = None,
    name: Annotated[str | None, typer.Option(help="Id in /v1/models (the file's name).")] = None,
    web_ui: Annotated[bool, typer.Option("--web-ui", help="Show llama.cpp's own chat page at /.")] = False,
) -> None:
    """Serve a model to OpenAI clients until Ctrl-C.

    Example: wf serve --model outputs/quickstart/export/model.gguf --port 8080
    """
    options = dict(locals())
    from wf_deployer.processes import api_key_environment, flags, run_foreground
    from wf_deployer.workspace import module_command

    environment = api_key_environment(options.pop("api_key"))
    command = [*module_command("wrinklefree_inference"), "serve", *flags(options)]
    raise typer.Exit(run_foreground(command, environment))
