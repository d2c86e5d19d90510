"""Ports that stay ours while nobody listens on them."""

from __future__ import annotations

import socket

import pytest

from wrinklefree_inference.ports import Port


def listen(port: int) -> socket.socket:
    """As servers do."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def test_a_server_takes_it_again_and_again() -> None:
    port = Port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port.number))
        with listen(port.number), socket.create_connection(("127.0.0.1", port.number)):
            pass
    port.close()


def test_nobody_else_gets_it() -> None:
    port = Port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port.number))
    port.close()
    listen(port.number).close()
