"""`wf serve`: an OpenAI-compatible server (packages/inference)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        str, typer.Option(help="GGUF file or exported folder; with --engine openai a server's URL.")
    ],
    engine: Annotated[str | None, typer.Option(help="native (the default), llamacpp or openai.")] = None,
    host: Annotated[str | None, typer.Option(help="Address (127.0.0.1); others need a key.")] = None,
    port: Annotated[int | None, typer.Option(help="Port (8080); 0 takes a free one.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="WF_API_KEY", help="Key that requests must carry; several may be given."),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with one key a line.")] = None,
    model_id: Annotated[str | None, typer.Option(help="Id in /v1/models (the file's name).")] = None,
    context: Annotated[int | None, typer.Option(help="Longest prompt and answer in tokens (4096).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads (all cores).")] = None,
    kv_cache_tokens: Annotated[
        int | None, typer.Option(help="native: cache for all requests in tokens (4 contexts).")
    ] = None,
    kv_cache_gb: Annotated[float | None, typer.Option(help="native: the same in GB.")] = None,
    kv_cache_type: Annotated[
        str | None, typer.Option(help="native: f16, or int8 at half the memory.")
    ] = None,
    max_running: Annotated[int | None, typer.Option(help="native: requests computed together (32).")] = None,
    max_waiting: Annotated[
        int | None, typer.Option(help="native: longest queue; beyond it 429 (128).")
    ] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="native: most tokens of one forward pass (256).")
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(help="native: longest answer that may be asked for.")
    ] = None,
    max_choices: Annotated[
        int | None, typer.Option(help="native: most answers (n x prompts) of a request (16).")
    ] = None,
    max_body_mb: Annotated[
        float | None, typer.Option(help="native, openai: longest request body (4).")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="native, openai: web page that may call (CORS).")
    ] = None,
    shutdown_timeout: Annotated[
        float | None, typer.Option(help="native, openai: seconds for running answers to end (30).")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="native, openai: text (the default) or json.")
    ] = None,
    upstream_api_key: Annotated[
        str | None, typer.Option(envvar="WF_UPSTREAM_API_KEY", help="openai: key of the server behind.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(help="llamacpp: requests answered at the same time (2).")
    ] = None,
    web_ui: Annotated[bool, typer.Option("--web-ui", help="llamacpp: its own chat page at /.")] = False,
) -> None:
    """Serve a model to OpenAI clients until Ctrl-C.

    Examples:

      wf serve --model outputs/quickstart/export/model.gguf --port 8080

      WF_API_KEY=... wf serve --model model.gguf --host 0.0.0.0 --log-format json

      wf serve --engine llamacpp --model model.gguf --parallel 4

      wf serve --engine openai --model http://127.0.0.1:30000 --api-key-file keys.txt
    """
    options = dict(locals())
    from wf_deployer.processes import api_key_environment, flags, run_foreground
    from wf_deployer.workspace import module_command

    keys, upstream_key = options.pop("api_key"), options.pop("upstream_api_key")
    environment = api_key_environment(" ".join(keys) if keys else None)
    if upstream_key is not None:
        environment["WF_UPSTREAM_API_KEY"] = upstream_key
    command = [*module_command("wrinklefree_inference"), "serve", *flags(options)]
    raise typer.Exit(run_foreground(command, environment))
