"""The address that a server listens at, taken before anything large is loaded or imported."""

from __future__ import annotations

import socket

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import ListenOptions


def bind(listen: ListenOptions) -> socket.socket:
    """A listening address; port 0 takes a free one.

    Raises:
        EngineError: It is taken, or not this machine's.
    """
    host, port = listen.host, listen.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise EngineError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """`http://address:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
