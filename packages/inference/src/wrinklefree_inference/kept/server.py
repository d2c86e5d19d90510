"""A server of another program as a child of this process."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

import httpx

from wf_formats.printable import printable
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.kept.keeper import GRACE_S
from wrinklefree_inference.llamacpp.server import check_address
from wrinklefree_inference.options import ListenOptions

_KEEPER = [sys.executable, "-P", "-m", "wrinklefree_inference.kept.keeper"]
_LOOK_S = 0.1
_ASK_S = 5.0
_SHOWN_LINES = 3


def errors_at_the_end(lines: Sequence[str]) -> str:
    """The last lines that speak of errors, or of all lines where none does."""
    told = [line for line in lines if "error" in line.lower()] or lines
    return "; ".join(told[-_SHOWN_LINES:])


class KeptServer:
    """A server that runs. What it printed last goes to a file without a name, for the reason of its end.

    Args:
        name: For errors.
        url: Where it listens.
        command: Its program and arguments; no key among them, command lines can be read by all.
        environment: Its own.
        reason: The reason of its end, of the lines that it printed last.
    """

    def __init__(
        self,
        name: str,
        url: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        reason: Callable[[Sequence[str]], str] = errors_at_the_end,
    ) -> None:
        self.url = url
        self._name, self._reason = name, reason
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the server
        self._process = subprocess.Popen(
            [*_KEEPER, *command],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us
        )

    def check(self) -> None:
        """Raises: EngineError: it has ended, with the end of what it printed."""
        if (code := self._process.poll()) is None:
            return
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        reason = printable(self._reason(lines)) or "it said nothing"
        raise EngineError(f"the server of {self._name} ended with exit code {code}: {reason}")

    def wait(self, stop: threading.Event | None = None) -> None:
        """Until its /health says that the model is loaded, or `stop` is set.

        Raises:
            EngineError: It has ended.
        """
        stop = stop or threading.Event()
        with httpx.Client(timeout=_ASK_S, trust_env=False) as client:
            while not stop.is_set():
                self.check()
                try:
                    if client.get(f"{self.url}/health").status_code == httpx.codes.OK:
                        self.check()  # or somebody else answers there
                        return
                except httpx.TransportError:
                    pass
                time.sleep(_LOOK_S)

    def close(self) -> None:
        """End it; calling it again does nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # the keeper's sign
        try:
            self._process.wait(3 * GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def place_of(listen: ListenOptions) -> tuple[int, str]:
    """Port and URL: those that were asked for, or a free port. Raises: EngineError: it is taken."""
    check_address(listen.host, listen.port)
    port = listen.port
    if not port:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((listen.host, 0))
            port = probe.getsockname()[1]
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return port, f"http://{host}:{port}"
