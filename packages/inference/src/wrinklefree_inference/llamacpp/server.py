"""llama.cpp's own OpenAI-compatible server, in this process.

It serves `/v1/chat/completions`, `/v1/completions`, `/v1/models` and `/health`, streams, batches
several requests at once and stops when the returned object is deleted.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrinklefree_inference.addresses import is_loopback
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.llamacpp.gguf_file import check_gguf


@dataclass(frozen=True)
class ServerOptions:
    """What a server needs to know.

    Attributes:
        model: GGUF file.
        host: Address to listen on; other than loopback needs `api_key`.
        port: 0 takes a free one.
        context_tokens: Longest request with its answer, for each of `num_parallel`.
        num_parallel: Requests that are answered at the same time.
        num_threads: None takes all cores that this process may use.
        api_key: Bearer token that requests must carry.
        name: Id of the model; None takes the file's name.
        web_ui: Whether `/` shows llama.cpp's own chat page.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 0
    context_tokens: int = 4096
    num_parallel: int = 1
    num_threads: int | None = None
    api_key: str | None = None
    name: str | None = None
    web_ui: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_key:
            raise ValueError(
                f"host {self.host} can be reached from other machines: set an API key, or listen on 127.0.0.1"
            )


def start_server(options: ServerOptions) -> Any:
    """Start a server; its `listening_address` is the URL, deleting it stops it.

    Raises:
        EngineError: The model is missing or refused (with llama.cpp's reason), or the address is
            taken.
    """
    import xllamacpp

    check_gguf(options.model)
    _check_address(options.host, options.port)
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.name or options.model.stem}
    params.hostnames, params.port = [options.host], options.port
    params.n_ctx = options.context_tokens * options.num_parallel
    params.n_parallel = options.num_parallel
    params.cpuparams.n_threads = options.num_threads or len(os.sched_getaffinity(0))
    params.api_keys = [options.api_key] if options.api_key else []
    params.cors_origins = ""  # the default lets any web page talk to a server on loopback
    params.cors_credentials = False
    params.cache_ram_mib = 256  # prompts kept for reuse; the default is 8 GiB
    params.ui = options.web_ui
    params.warmup, params.verbosity = False, -1
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineError(_reason(options)) from error


def _check_address(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EngineError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _reason(options: ServerOptions) -> str:
    """Why the server did not start: xllamacpp does not say, so load the model once more."""
    from wrinklefree_inference.llamacpp.api import library
    from wrinklefree_inference.llamacpp.handles import load_model

    library().llama_model_free(load_model(options.model))  # raises with the reason
    return (
        f"llama.cpp loads {options.model} but its server did not start on "
        f"{options.host}:{options.port} with {options.num_parallel} x {options.context_tokens} "
        "tokens of context: try a smaller context or another port"
    )
