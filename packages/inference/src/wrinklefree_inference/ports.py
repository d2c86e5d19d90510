"""Ports of loopback that stay ours between two processes that listen on them."""

from __future__ import annotations

import socket


class Port:
    """A port of 127.0.0.1: bound here without listening, so that nobody else gets it.

    A child that sets SO_REUSEADDR, as servers do, can listen on it nevertheless, one at a time; while none
    does, connections are refused at once. (A port that is only looked up and let go again may become the
    local end of any connection of this machine before a server that has died can take it again.)
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Of a server on it."""
        return f"http://127.0.0.1:{self.number}"

    def close(self) -> None:
        """Let it go."""
        self._socket.close()
