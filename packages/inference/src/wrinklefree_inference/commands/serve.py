"""`serve`: an OpenAI-compatible server until SIGTERM or Ctrl-C."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from wrinklefree_inference.errors import EngineError


class EngineName(StrEnum):
    """What answers."""

    NATIVE = "native"
    LLAMACPP = "llamacpp"
    OPENAI = "openai"


class CacheType(StrEnum):
    """Numbers of the key-value cache."""

    F16 = "f16"
    INT8 = "int8"


class LogForm(StrEnum):
    """Form of the log lines."""

    TEXT = "text"
    JSON = "json"


_EXAMPLES = """
Examples:

  serve --model model.gguf

  serve --model outputs/export/hf --kv-cache-type int8 --context 8192 --log-format json

  WF_API_KEY=... serve --model model.gguf --host 0.0.0.0 --port 8080

  serve --engine llamacpp --model model.gguf --parallel 4

  serve --engine openai --model http://127.0.0.1:30000 --api-key-file keys.txt
"""


def serve(
    model: Annotated[
        str, typer.Option(help="GGUF file or exported folder; with --engine openai a server's URL.")
    ],
    engine: Annotated[
        EngineName, typer.Option(help="native; llamacpp: llama.cpp's own server; openai: pass on to a URL.")
    ] = EngineName.NATIVE,
    host: Annotated[str, typer.Option(help="Address; other than loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="WF_API_KEY", help="Key that requests must carry; several may be given."),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with one key a line.")] = None,
    model_id: Annotated[
        str | None, typer.Option(help="Id in /v1/models; the file's name if not given.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=16, help="Longest prompt and answer in tokens (4096, or the model's).")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores if not given.")] = None,
    kv_cache_tokens: Annotated[
        int | None, typer.Option(min=32, help="native: cache for all requests in tokens (4 contexts).")
    ] = None,
    kv_cache_gb: Annotated[
        float | None, typer.Option(min=0.001, help="native: the same in GB (1e9 bytes).")
    ] = None,
    kv_cache_type: Annotated[
        CacheType | None, typer.Option(help="native: f16, or int8 at half the memory.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=1, help="native: requests computed together.")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(min=0, help="native: longest queue; beyond it 429 with Retry-After.")
    ] = None,
    max_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="native: most tokens of one forward pass.")
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=1, help="native: longest answer that may be asked for.")
    ] = None,
    max_choices: Annotated[
        int | None, typer.Option(min=1, help="native: most answers (n x prompts) of a request (16).")
    ] = None,
    max_body_mb: Annotated[
        float | None, typer.Option(min=0.001, help="native, openai: longest request body (4).")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="native, openai: web page that may call (CORS); several may be given."),
    ] = None,
    shutdown_timeout: Annotated[
        float | None, typer.Option(min=0.0, help="native, openai: seconds for running answers to end (30).")
    ] = None,
    log_format: Annotated[
        LogForm | None, typer.Option(help="native, openai: form of the log (text).")
    ] = None,
    upstream_api_key: Annotated[
        str | None, typer.Option(envvar="WF_UPSTREAM_API_KEY", help="openai: key of the server behind.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="llamacpp: requests answered at the same time (2).")
    ] = None,
    web_ui: Annotated[bool, typer.Option("--web-ui", help="llamacpp: its own chat page at /.")] = False,
) -> None:
    """Serve a model to OpenAI clients: chat and plain completions, /v1/models, /health, /metrics."""
    options = dict(locals())
    try:
        _refuse_others(engine, options)
        from wrinklefree_inference.commands import serving

        serving.SERVERS[engine](options)
    except (EngineError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


serve.__doc__ = f"{serve.__doc__}\n{_EXAMPLES}"

_COMMON = {"model", "engine", "host", "port", "api_key", "api_key_file"}
_HTTP = {"max_body_mb", "allow_origin", "shutdown_timeout", "log_format"}
_NATIVE = {
    *("model_id", "context", "threads", "kv_cache_tokens", "kv_cache_gb", "kv_cache_type"),
    *("max_running", "max_waiting", "max_batch_tokens", "max_output_tokens", "max_choices"),
}
_KNOWN = {
    EngineName.NATIVE: _COMMON | _HTTP | _NATIVE,
    EngineName.LLAMACPP: _COMMON | {"model_id", "context", "threads", "parallel", "web_ui"},
    EngineName.OPENAI: _COMMON | _HTTP | {"upstream_api_key"},
}


def _refuse_others(engine: EngineName, options: dict[str, Any]) -> None:
    """Raises ValueError for an option that would have no effect."""
    for name, value in options.items():
        if value not in (None, False, []) and name not in _KNOWN[engine] and name != "upstream_api_key":
            engines = ", ".join(other for other in EngineName if name in _KNOWN[other])
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} has no effect with --engine {engine} (it is for {engines})")
    if engine is not EngineName.OPENAI and str(options["model"]).startswith(("http://", "https://")):
        raise ValueError(f"{options['model']} is a URL: say --engine openai to pass requests on to it")
