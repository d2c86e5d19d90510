"""The llama-server of a build of bitnet.cpp, as a child of this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO

import httpx

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wrinklefree_inference.bitnetcpp.keeper import GRACE_S
from wrinklefree_inference.bitnetcpp.program import KEY_VARIABLE, command_of, find_program
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.keys import keys_of
from wrinklefree_inference.llamacpp.gguf_file import check_gguf
from wrinklefree_inference.llamacpp.server import check_address
from wrinklefree_inference.options import BitnetCppServerOptions, ListenOptions

_KEEPER = [sys.executable, "-P", "-m", "wrinklefree_inference.bitnetcpp.keeper"]
_LOOK_S = 0.1
_ASK_S = 5.0
_SHOWN_LINES = 3
"""Of its log, where it ends by itself: those that speak of errors, else the last."""


class BitnetCppServer:
    """A server that runs. What it printed last goes to a file without a name, for the reason of its end.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.url = url
        self._process, self._log = process, log

    def check(self) -> None:
        """Raises: EngineError: it has ended, with the end of what it printed."""
        if (code := self._process.poll()) is None:
            return
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        told = [line for line in lines if "error" in line.lower()] or lines
        reason = printable("; ".join(told[-_SHOWN_LINES:])) or "it said nothing"
        raise EngineError(f"the server of bitnet.cpp ended with exit code {code}: {reason}")

    def close(self) -> None:
        """End it; calling it again does nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # the keeper's sign
        try:
            self._process.wait(2 * GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def start_server(options: BitnetCppServerOptions, stop: threading.Event | None = None) -> BitnetCppServer:
    """Start a server and wait until it has loaded its model.

    Args:
        stop: ends the waiting.

    Raises:
        EngineError: The model is missing, the address is taken, or the server ends (with what it said last).
        RequestError: There is no program, or more than one key.
    """
    program, model, listen = find_program(options.engine.build), check_gguf(options.model), options.listen
    keys = keys_of(listen)
    if len(keys) > 1:
        raise RequestError(f"bitnet.cpp's server takes one API key, {len(keys)} were given")
    port = _port_of(listen)
    log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the server
    process = subprocess.Popen(
        [*_KEEPER, *command_of(program, model, port, options)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=_environment(keys),
        start_new_session=True,  # Ctrl-C is for us
    )
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    server = BitnetCppServer(f"http://{host}:{port}", process, log)
    try:
        _wait(server, stop or threading.Event())
    except BaseException:
        server.close()
        raise
    return server


def _environment(keys: list[str]) -> dict[str, str]:
    """Without a key of somebody's shell."""
    inherited = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    return inherited | ({KEY_VARIABLE: keys[0]} if keys else {})


def _port_of(listen: ListenOptions) -> int:
    check_address(listen.host, listen.port)
    if listen.port:
        return listen.port
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((listen.host, 0))
        port: int = probe.getsockname()[1]
    return port


def _wait(server: BitnetCppServer, stop: threading.Event) -> None:
    """Until /health says that the model is loaded."""
    with httpx.Client(timeout=_ASK_S, trust_env=False) as client:
        while not stop.is_set():
            server.check()
            try:
                if client.get(f"{server.url}/health").status_code == httpx.codes.OK:
                    server.check()  # or somebody else answers there
                    return
            except httpx.TransportError:
                pass
            time.sleep(_LOOK_S)
