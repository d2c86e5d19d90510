"""`serve`: an OpenAI-compatible server until SIGTERM or Ctrl-C."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer

from wf_formats.errors import RequestError
from wrinklefree_inference.commands.flags import build, refuse_others, with_flags
from wrinklefree_inference.commands.models import MODEL, chosen_model
from wrinklefree_inference.options import (
    BitnetCppServerOptions,
    LlamaCppServerOptions,
    NativeServerOptions,
    ProxyOptions,
    SglangServerOptions,
    VllmServerOptions,
)


@dataclass(frozen=True)
class ServedEngine:
    """What `serve --engine` starts: the type of its options, and who serves with them ("module:function")."""

    options: type
    path: str

    def run(self, options: Any) -> None:
        """Serve until a signal; what it needs is imported now."""
        module, _, name = self.path.partition(":")
        getattr(import_module(module), name)(options)


SERVERS = {
    "native": ServedEngine(NativeServerOptions, "wrinklefree_inference.commands.serving:serve_native"),
    "llamacpp": ServedEngine(LlamaCppServerOptions, "wrinklefree_inference.commands.serving:serve_llamacpp"),
    "bitnetcpp": ServedEngine(
        BitnetCppServerOptions, "wrinklefree_inference.commands.serving:serve_bitnetcpp"
    ),
    "vllm": ServedEngine(VllmServerOptions, "wrinklefree_inference.commands.serving:serve_vllm"),
    "sglang": ServedEngine(SglangServerOptions, "wrinklefree_inference.commands.serving:serve_sglang"),
    "openai": ServedEngine(ProxyOptions, "wrinklefree_inference.commands.serving:serve_openai"),
}
KINDS = {name: engine.options for name, engine in SERVERS.items()}


@with_flags(KINDS)
def serve(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option(help=f"{MODEL} With --engine openai the URL of the server behind.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="native; llamacpp: llama.cpp's own server; bitnetcpp: that of your build of bitnet.cpp; "
            "vllm, sglang: these in an environment of their own; openai: pass on to a URL."
        ),
    ] = "native",
    **given: Any,
) -> None:
    """Serve a model to OpenAI's clients and Ollama's: chat, completions, responses, embeddings.

    Examples:

      wf serve

      wf serve --model model.gguf

      wf serve --model outputs/export/hf --kv-cache-type int8 --context 8192 --log-format json

      WF_API_KEY=... wf serve --model model.gguf --host 0.0.0.0 --port 8080

      wf serve --engine llamacpp --model model.gguf --parallel 4

      wf serve --engine bitnetcpp --bitnetcpp ~/BitNet --model model-i2_s.gguf

      wf serve --engine vllm --vllm ~/vllm --model outputs/export/w2a8

      wf serve --engine sglang --sglang ~/sglang --model outputs/export/w2a8

      wf serve --engine openai --model http://127.0.0.1:30000 --api-key-file keys.txt

    On machines of others: wf serve --cloud modal --help
    """
    if engine not in SERVERS:
        raise RequestError(f"unknown engine {engine!r} (known: {', '.join(SERVERS)})")
    refuse_others(ctx, engine, KINDS)
    if engine == "openai":
        if model is None:
            raise RequestError("--engine openai passes requests on: give the server's URL with --model")
        SERVERS[engine].run(build(KINDS[engine], given, model=model))
        return
    model = chosen_model(model)
    if model.startswith(("http://", "https://")):
        raise RequestError(f"{model} is a URL: say --engine openai to pass requests on to it")
    SERVERS[engine].run(build(KINDS[engine], given, model=model))
