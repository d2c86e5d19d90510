"""A program's own server as a child of this process: on a random port of loopback, behind a random key."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wrinklefree_inference.kept.server import KeptServer, errors_at_the_end
from wrinklefree_inference.options import StockServerOptions
from wrinklefree_inference.ports import Port
from wrinklefree_inference.stock.environment import environment_of, find_python
from wrinklefree_inference.stock.model import cache_of, check_folder, context_of
from wrinklefree_inference.stock.programs import Launch, Program

_CAUSE = re.compile(r"\b[A-Za-z_.]*(?:Error|Exception): .+")
_FOLLOWS = "See root cause above"


@dataclass(frozen=True)
class StockServer:
    """A server that runs, and the key that it asks for."""

    kept: KeptServer
    key: str
    model_id: str
    port: Port

    def close(self) -> None:
        """End it, and give its port back; calling it again does nothing."""
        self.kept.close()
        self.port.close()


def start_server(
    program: Program, options: StockServerOptions, on_start: Callable[[], None] = lambda: None
) -> StockServer:
    """Start a server and wait until it has loaded its model.

    Args:
        on_start: called when all is well and the waiting begins.

    Raises:
        RequestError: There is no environment, or it lacks the program or the plug-in; an option does not fit
            the model.
        EngineError: The model is missing or of another kind, or the server ends (with the reason).
    """
    model = Path(options.model).expanduser().absolute()
    python = find_python(program, options.engine.environment)
    folder = check_folder(model, program)
    context_tokens = context_of(folder.config, options.engine)
    cache_tokens, cache_bytes = cache_of(folder, options.engine)
    model_id, key, port = options.model_id or model.name, secrets.token_urlsafe(16), Port()
    launch = Launch(
        model=str(model),
        model_id=model_id,
        port=port.number,
        dtype=folder.dtype,
        context_tokens=context_tokens,
        cache_tokens=cache_tokens,
        cache_bytes=cache_bytes,
        max_running=options.max_running,
    )
    command = [
        *("env", "-u", "PYTHONPATH", "-u", "PYTHONHOME"),  # which lead to packages of another environment
        *(str(python), "-I", "-m", program.module, *program.arguments(launch)),
    ]
    environment = environment_of(program, python, key, options.engine.num_threads_or_all)
    kept = KeptServer(program.name, port.url, command, environment, reason_of)
    server = StockServer(kept, key, model_id, port)
    on_start()
    try:
        kept.wait()
    except BaseException:
        server.close()
        raise
    return server


def reason_of(lines: Sequence[str]) -> str:
    """The last error that is no echo of another process's: servers of several end in several tracebacks."""
    causes = [found.group() for line in lines if (found := _CAUSE.search(line)) and _FOLLOWS not in line]
    return causes[-1] if causes else errors_at_the_end(lines)
