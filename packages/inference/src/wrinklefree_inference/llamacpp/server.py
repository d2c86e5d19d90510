"""llama.cpp's own OpenAI-compatible server, in this process.

It serves `/v1/chat/completions`, `/v1/completions`, `/v1/models` and `/health`, streams, batches
several requests at once and stops when the returned object is deleted.
"""

from __future__ import annotations

import socket
from typing import Any

from wf_formats.errors import RequestError
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.keys import keys_of
from wrinklefree_inference.llamacpp.gguf_file import check_gguf, check_model
from wrinklefree_inference.options import LlamaCppServerOptions


def start_server(options: LlamaCppServerOptions) -> Any:
    """Start a server; its `listening_address` is the URL, deleting it stops it.

    Raises:
        EngineError: The model is missing or refused (with llama.cpp's reason), or the address is
            taken.
        RequestError: More than one key.
    """
    import xllamacpp

    keys = keys_of(options.listen)
    if len(keys) > 1:
        raise RequestError(f"llama.cpp's server takes one API key, {len(keys)} were given")
    model, listen = check_gguf(options.model), options.listen
    adapter = check_model(model, options.engine.adapter)
    check_address(listen.host, listen.port)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    if adapter is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter))]
    params.model_alias = {options.engine.model_id or model.stem}
    params.hostnames, params.port = [listen.host], listen.port
    params.n_ctx = options.engine.context_tokens_or_default * options.num_parallel
    params.n_parallel = options.num_parallel
    params.cpuparams.n_threads = options.engine.num_threads_or_all
    params.api_keys = keys
    params.cors_origins = ""  # the default lets any web page talk to a server on loopback
    params.cors_credentials = False
    params.cache_ram_mib = 256  # prompts kept for reuse; the default is 8 GiB
    params.ui = options.web_ui
    params.warmup, params.verbosity = False, -1
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineError(_reason(options)) from error


def check_address(host: str, port: int) -> None:
    """Raises: EngineError: nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EngineError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _reason(options: LlamaCppServerOptions) -> str:
    """Why the server did not start: xllamacpp does not say, so load model and adapter once more."""
    from wrinklefree_inference.llamacpp.scorer import GgufScorer

    GgufScorer(options.model, adapter=options.engine.adapter).close()  # raises with the reason
    return (
        f"llama.cpp loads {options.model} but its server did not start on "
        f"{options.listen.host}:{options.listen.port} with {options.num_parallel} x "
        f"{options.engine.context_tokens_or_default} tokens of context: try a smaller context or another port"
    )
