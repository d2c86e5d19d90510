"""`gateway`: several servers of one model behind one address, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wf_formats.errors import RequestError
from wrinklefree_inference.commands.flags import build, is_typed, refuse_others, with_flags
from wrinklefree_inference.gateway.options import GatewayOptions, RemoteOptions
from wrinklefree_inference.options import NativeServerOptions

KINDS = {"--model": NativeServerOptions, "--worker-url": RemoteOptions}


@with_flags(KINDS, GatewayOptions)
def gateway(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="GGUF file or exported folder that --workers servers are started for.")
    ] = None,
    **given: Any,
) -> None:
    """Serve one model by several servers behind one address; the same beginnings go to the same server.

    --model starts servers on this machine (`wf serve`, with the options that are given here). --worker-url
    takes servers that run already; both go together. One of ours that dies is started again.

    Examples:

      wf gateway --model model.gguf --workers 2

      wf gateway --worker-url http://10.0.0.1:8080 --worker-url http://10.0.0.2:8080

      WF_API_KEY=... WF_WORKER_API_KEY=... wf gateway --host 0.0.0.0 --worker-url http://10.0.0.1:8080
    """
    options = build(GatewayOptions, given)
    _check(model, options)
    if is_typed(ctx, "worker_api_key") and not options.urls:
        raise RequestError("--worker-api-key is for servers of --worker-url: none is given")
    kind = "--model" if model is not None else "--worker-url"
    refuse_others(ctx, kind, KINDS, option="")
    own = {"model": model} if model is not None else {}
    from wrinklefree_inference.gateway.run import run_gateway

    run_gateway(build(KINDS[kind], given, **own), options)


def _check(model: str | None, options: GatewayOptions) -> None:
    if model is None and options.workers is not None:
        raise RequestError(f"--workers {options.workers} starts servers of a model: give it with --model")
    if model is None and not options.urls:
        raise RequestError(
            "give --model FILE to start servers, or --worker-url URL of servers that run already"
        )
    if model is not None and model.startswith(("http://", "https://")):
        raise RequestError(f"{model} is a URL: say --worker-url {model}")
