"""One `wf serve` on a loopback port, with a key that only we and the router have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from wrinklefree_inference.gateway.child import Child
from wrinklefree_inference.gateway.supervised import FIRST_PAUSE_S, Supervised
from wrinklefree_inference.ports import Port

PROGRAM = "wrinklefree_inference.gateway.worker_program"
STARTER = "WRINKLEFREE_GATEWAY"
"""Variable with our process id: the worker ends with us."""


class Worker(Supervised):
    """Always on the same port.

    Args:
        name: In the log.
        arguments: Of `wf serve`: model and options, without address and keys.
        key: That it asks for, given by its environment.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        key: str,
        show: Callable[[str], None],
        first_pause_s: float = FIRST_PAUSE_S,
        program: Sequence[str] = (sys.executable, "-m", PROGRAM),
    ) -> None:
        super().__init__(name, show, first_pause_s)
        self._port = Port()
        self.url = self._port.url
        address = ["serve", "--host=127.0.0.1", f"--port={self._port.number}"]
        self._command = [*program, *address, *arguments]
        self._key = key

    def spawn(self) -> Child:
        """Start the server."""
        own = {"WF_API_KEY": self._key, STARTER: str(os.getpid()), "WF_PROG": "wf serve"}
        return Child(self._command, self.tell, os.environ | own)

    async def until_ready(self, child: Child) -> None:
        """It says where it serves."""
        if not await child.first_line():
            await child.wait()

    async def stop(self, grace_s: float) -> None:
        """End it, and give the port back."""
        await super().stop(grace_s)
        self._port.close()
