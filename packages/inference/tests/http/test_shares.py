"""Clients beside each other: keys, addresses, descriptors, memory and log lines are shared out or bounded."""

from __future__ import annotations

import gc
import http.client
import json
import logging
import resource
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack
from typing import Any

import pytest

from wrinklefree_inference.addresses import network_of
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.http.connections import ConnectionLimits, ConnectionTable
from wrinklefree_inference.http.logs import RateLimit
from wrinklefree_inference.http.memory import LARGE_BYTES, LargeBodies
from wrinklefree_inference.http.shares import Shares
from wrinklefree_inference.options import HttpOptions

ASK = {"model": "org/toy", "prompt": "x", "max_tokens": 3}


def post(url: str, key: str, timeout_s: float = 10, path: str = "/v1/completions", **fields: object) -> int:
    client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout_s)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = {name: value for name, value in (ASK | fields).items() if value is not None}
    client.request("POST", path, json.dumps(body), headers)
    reply = client.getresponse()
    reply.read()
    client.close()
    return reply.status


def test_bodies_that_do_not_come_hold_only_their_key_s_places(in_thread):
    options = HttpOptions(max_inflight=8)
    with in_thread(options, keys=["key-one", "key-two"]) as (url, _), ExitStack() as stack:
        host, port = url.removeprefix("http://").split(":")
        for _ in range(30):
            connection = stack.enter_context(socket.create_connection((host, int(port)), 10))
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-one\r\n"
            connection.sendall(head + b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        time.sleep(0.3)
        assert post(url, "key-one") == 429
        started = time.perf_counter()
        assert [post(url, "key-two") for _ in range(4)] == [200] * 4
        assert time.perf_counter() - started < 5


def test_costly_templates_hold_up_their_own_key_alone(in_thread):
    """It waits for the one that is being rendered; a client that leaves is not rendered for at all."""
    cost_s = 0.3
    messages = [{"role": "user", "content": f"costly {cost_s}"}]
    with in_thread(keys=["key-one", "key-two"]) as (url, engine):
        costly: dict[str, Any] = {"path": "/v1/chat/completions", "messages": messages, "prompt": None}
        threads = [threading.Thread(target=post, args=(url, "key-one"), kwargs=costly) for _ in range(4)]
        leaving = http.client.HTTPConnection(url.removeprefix("http://"))
        headers = {"Authorization": "Bearer key-one", "Content-Type": "application/json"}
        for thread in threads:
            thread.start()
        leaving.request(
            "POST", costly["path"], json.dumps({"model": "org/toy", "messages": messages}), headers
        )
        time.sleep(0.1)
        leaving.close()
        started = time.perf_counter()
        quick = [{"role": "user", "content": "x"}]
        assert post(url, "key-two", **costly | {"messages": quick}) == 200
        assert time.perf_counter() - started < 2 * cost_s
        for thread in threads:
            thread.join()
        assert len(engine.seen) == 5


@pytest.mark.parametrize("num_clients", [1, 2, 3, 5])
def test_shares(num_clients):
    shares, names = Shares(6), [f"client {i}" for i in range(num_clients)]
    with ExitStack() as stack:
        held = dict.fromkeys(names, 0)
        for name in names:
            while shares.has_room_for(name):
                stack.enter_context(shares.held_by(name))
                held[name] += 1
        assert list(held.values()) == [6, 3, 2, 1, 1][:num_clients]
        assert shares.num_held == sum(held.values())
    assert shares.num_held == 0
    assert shares.has_room_for("client 0")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("::1", "::"),
        ("", ""),
        ("/a/socket", "/a/socket"),
    ],
)
def test_one_client_is_one_network(address, network):
    assert network_of(address) == network


class Known:
    """A connection of the table."""

    def __init__(self, network: str, is_idle: bool = True, has_asked: bool = False) -> None:
        self.network, self.is_idle, self.has_asked, self.since_s = network, is_idle, has_asked, 0.0
        self.is_closed = False

    def give_way(self) -> None:
        self.is_closed = True


def test_the_client_with_most_connections_makes_room():
    table = ConnectionTable(ConnectionLimits(5, 4), HttpOptions())
    greedy, modest = [Known("a") for _ in range(4)], Known("b", has_asked=True)
    assert all(table.admit(one) for one in [modest, *greedy])
    assert table.admit(Known("c"))
    assert [one.is_closed for one in [modest, *greedy]] == [False, True, False, False, False]
    for one in [modest, *greedy]:
        one.is_idle = False
    assert table.admit(Known("d"))  # the one of c went
    for _ in range(3):
        table.leave(greedy[1])
    assert table.admit(Known("e", is_idle=False))
    assert table.admit(Known("f", is_idle=False))
    assert not table.admit(Known("g"))


LIMITS = """
import resource, sys
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.http.connections import ConnectionLimits
from wrinklefree_inference.options import HttpOptions
soft, hard, most, other = (int(x) for x in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    limits = ConnectionLimits.of(HttpOptions(max_connections=most or None), other)
    print(limits.total, limits.per_client, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except EngineError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ((1024, 1024, 0, 0), "896 448 1024"),
        ((256, 1024, 0, 0), "896 448 1024"),
        ((1024, 1024, 0, 256), "640 320 1024"),
        ((1024, 8192, 0, 0), "4096 2048 4224"),
        ((256, 8192, 1000, 0), "1000 500 1128"),
        ((1024, 1024, 1000, 0), "this process may open 1024 files, 128 of which are not for connections"),
        ((100, 100, 0, 0), "raise that limit (ulimit -n 384) or give a --max-connections that fits"),
    ],
)
def test_connections_stay_below_the_descriptors(arguments, printed):
    command = [sys.executable, "-c", LIMITS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed in done.stdout


def test_more_idle_connections_than_descriptors(process):
    """The server's own log stays short, and it answers."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with process(0, 1, descriptors=300) as (child, url), ExitStack() as stack:
        assert limit[0] > 500
        host, port = url.removeprefix("http://").split(":")
        for _ in range(400):
            stack.enter_context(socket.create_connection((host, int(port)), 10))
        started = time.perf_counter()
        assert post(url, "none") == 200
        assert time.perf_counter() - started < 5
        child.terminate()
        assert child.wait(5) == 0
        assert len(child.stderr.readlines()) < 20


class Circle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize(
    ("num_bytes", "is_large"),
    [(100, False), (LARGE_BYTES - 1, False), (LARGE_BYTES, True), (4_000_000, True)],
)
def test_large_bodies_go_back_to_the_system(num_bytes, is_large):
    bodies, trims = LargeBodies(), []
    bodies._trim = trims.append
    gc.disable()
    try:
        left = [weakref.ref(Circle()) for _ in range(2)]
        bodies.note(num_bytes)
        bodies.give_back(1000.0)
        assert [one() is None for one in left] == [is_large] * 2
        assert len(trims) == is_large
        for now_s in (1000.1, 1002.9, 1003.1, 1010.0):
            bodies.note(num_bytes if now_s < 1003 else 0)
            bodies.give_back(now_s)
        assert len(trims) == 2 * is_large
    finally:
        gc.enable()


def test_the_server_notes_large_bodies(in_thread, monkeypatch):
    noted: list[int] = []
    monkeypatch.setattr(LargeBodies, "note", lambda self, num_bytes: noted.append(num_bytes))
    with in_thread() as (url, _):
        assert post(url, "none", user="v" * 500_000) == 200
    assert noted[0] > 500_000


def test_a_full_disk_under_the_log(process):
    with process(0, 1, stderr="/dev/full") as (child, url):
        assert [post(url, "none") for _ in range(20)] == [200] * 20
        child.terminate()
        assert child.wait(5) == 0


def line(message: str = "it %s", level: int = logging.WARNING, *args: object) -> logging.LogRecord:
    return logging.LogRecord("a", level, __file__, 1, message, args or ("broke",), None)


def test_warnings_of_a_kind_are_few(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = RateLimit(most=3, interval_s=10)
    assert sum(limit.filter(line()) for _ in range(1000)) == 3
    assert limit.filter(line("another"))
    assert all(limit.filter(line("request", logging.INFO)) for _ in range(1000))
    now[0] += 11
    told = line()
    assert limit.filter(told)
    assert told.getMessage() == "it broke (and 997 more in 10 s)"
    now[0] += 11
    silent = line()
    assert limit.filter(silent)
    assert silent.getMessage() == "it broke"


@pytest.mark.parametrize(
    ("field", "value"),
    [("header_timeout_s", 0), ("write_timeout_s", -1), ("body_timeout_s", float("inf")), ("max_inflight", 0)],
)
def test_options_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field} must be above 0, got {value}"):
        HttpOptions(**{field: value})


def test_too_many_connections_for_this_process(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 200))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(EngineError, match="may open 200 files"):
        ConnectionLimits.of(HttpOptions(max_connections=100))
