"""Raw connections that mean harm: each is refused or closed in time, and others are served meanwhile."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from wrinklefree_inference.http import run
from wrinklefree_inference.options import HttpOptions

QUICK = HttpOptions(
    header_timeout_s=0.4, body_timeout_s=0.4, keep_alive_timeout_s=0.3, write_timeout_s=0.4, max_body_mb=0.1
)
JSON = b"Content-Type: application/json\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + JSON
ASK = json.dumps({"model": "org/toy", "prompt": "x", "max_tokens": 3}).encode()
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(ASK) + ASK
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
UNREAD = b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"
ENDS_WITHIN_S = 5.0  # time-outs of half a second, on a busy machine


@pytest.fixture(scope="module", autouse=True)
def looks_often() -> Iterator[None]:
    """At all connections, every 0.1 s instead of 0.5."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_CHECK_TICKS", 1)
        yield


@pytest.fixture(scope="module")
def quick(in_thread_of_module) -> Iterator[str]:
    with in_thread_of_module(QUICK) as (url, _):
        yield url


@contextmanager
def connected(url: str, timeout_s: float = ENDS_WITHIN_S) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        yield connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes; fails if it does not."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def send(connection: socket.socket, *pieces: bytes) -> None:
    with suppress(ConnectionError):  # it may have been refused in the middle
        for piece in pieces:
            connection.sendall(piece)


def statuses(received: bytes) -> list[int]:
    """Of the answers; 100, by which the server asks whether a client that waits long is there, is none."""
    found = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
    return [status for status in found if status != 100]


def ask(url: str) -> tuple[int, float]:
    """Status and seconds of an ordinary request."""
    started = time.perf_counter()
    client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=ENDS_WITHIN_S)
    client.request("POST", "/v1/completions", ASK, {"Content-Type": "application/json"})
    reply = client.getresponse()
    reply.read()
    client.close()
    return reply.status, time.perf_counter() - started


REFUSED = {
    "binary": (b"\x00\xff" * 500, {400}),
    "tls": (bytes.fromhex("16030100c8010000c40303") + b"\x07" * 190, {400}),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", {400}),
    "two hosts": (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", {400}),
    "another version": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", {400}),
    "http 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "long target": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 414, 431}),
    "long header": (GET[:-2] + b"X: " + b"a" * 200_000 + b"\r\n\r\n", {400, 431}),
    "100,000 headers": (GET[:-2] + b"a: b\r\n" * 100_000 + b"\r\n", {400, 431}),
    "folded header": (GET[:-2] + b"X: a\r\n" + b" b\r\n" * 20_000 + b"\r\n", {400, 431}),
    "header with a null": (GET[:-2] + b"X: a\x00b\r\n\r\n", {400}),
    "space before a colon": (GET[:-2] + b"X : a\r\n\r\n", {400}),
    "negative length": (POST + b"Content-Length: -5\r\n\r\n", {400}),
    "length of words": (POST + b"Content-Length: many\r\n\r\n", {400}),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", {400}),
    "length and chunks": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400},
    ),
    "length of 40 digits": (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", {400, 413}),
    "length of 5000 digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", {400, 413}),
    "another encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", {400, 501}),
    "chunk of 10^30 bytes": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 25 + b"\r\n",
        {400},
    ),
    "chunk of words": (POST + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", {400}),
    "chunk longer than it says": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabcdef\r\n0\r\n\r\n",
        {400},
    ),
    "chunk with a long extension": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000 + b"\r\na\r\n0\r\n\r\n",
        {400, 431},
    ),
    "body too long": (POST + b"Content-Length: 200000\r\n\r\n" + b" " * 200_000, {413}),
    "body too long, expected": (POST + b"Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n", {413}),
    "body that does not come": (POST + b"Content-Length: 100\r\n\r\n{", {408}),
    "chunks that do not end": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", {408}),
    "head that does not end": (GET[:-2], {408}),
    "type that a page may send": (POST.replace(JSON, b"Content-Type: text/plain\r\n") + b"\r\n", {415}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_and_others_are_served(case, quick):
    sent, expected = REFUSED[case]
    with connected(quick) as connection:
        send(connection, sent)
        assert ask(quick)[0] == 200
        received = all_of(connection)
    found = [status for status in statuses(received) if status != 100]
    assert len(found) <= 1
    assert set(found) <= expected, received
    if found:
        body = received.split(b"\r\n\r\n")[-1]
        assert json.loads(body)["error"]["message"]


ENDED = {
    "nothing": (b"", []),
    "nothing more": (GET, [200]),
    "a body nobody reads": (
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nab",
        [405],
    ),
    "a body after its refusal": (
        POST.replace(b"localhost", b"evil.example") + b"Content-Length: 99999\r\n\r\nab",
        [403],
    ),
}


@pytest.mark.parametrize("case", ENDED)
def test_an_idle_connection_is_closed(case, quick):
    sent, expected = ENDED[case]
    with connected(quick, 8) as connection:
        send(connection, sent)
        started = time.perf_counter()
        assert statuses(all_of(connection)) == expected
        assert time.perf_counter() - started < 7


def seconds_taking(connection: socket.socket, piece: bytes) -> float:
    """How long a server takes a piece now and then before it closes the connection, at most 8 s."""
    started = time.perf_counter()
    with suppress(ConnectionError):
        while time.perf_counter() - started < 8:
            connection.sendall(piece)
            time.sleep(0.1)
    return time.perf_counter() - started


@pytest.mark.parametrize("start", [GET[:-2], POST + b"Content-Length: 99\r\n\r\n", UNREAD])
def test_a_byte_now_and_then_is_no_progress(start, quick):
    with connected(quick) as connection:
        send(connection, start)
        assert seconds_taking(connection, b"a") < 7


def test_a_reader_that_takes_nothing_is_cut_off(in_thread):
    """Its answer fills the buffers of both machines."""
    options = HttpOptions(write_timeout_s=0.5)
    with in_thread(options, context_tokens=400_000, delay_s=0) as (url, engine), connected(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({"model": "org/toy", "prompt": "x", "max_tokens": 300_000, "stream": True}).encode()
        send(connection, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        deadline = time.perf_counter() + 20
        while not engine.cancelled and time.perf_counter() < deadline:
            time.sleep(0.05)
        assert engine.cancelled
        assert ask(url)[0] == 200


def test_requests_in_a_row_are_answered_in_order(quick):
    with connected(quick) as connection:
        send(connection, GET + WHOLE + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
        assert statuses(all_of(connection)) == [200, 200, 404, 200]


def test_a_thousand_requests_in_a_row(quick):
    with connected(quick, 30) as connection:
        send(connection, GET * 1000)
        assert ask(quick)[0] == 200
        connection.shutdown(socket.SHUT_WR)
        assert statuses(all_of(connection)) == [200] * 1000


def test_continue_is_sent_once_the_body_is_wanted(quick):
    with connected(quick) as connection:
        send(connection, POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(ASK))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        send(connection, ASK)
        assert statuses(all_of(connection)) == [200]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\r\n" + GET, [200]),
        (b"\r\n" * 500 + GET, [200]),
        (b"\n" + GET, [200]),
        (GET + b"\r\n" + GET, [200, 200]),
        (WHOLE + b"\r\n" + WHOLE + b"\r\n\r\n" + GET, [200, 200, 200]),
        (b"\r\n \r\n" + GET, [400]),
    ],
)
def test_empty_lines_before_a_request_are_nothing(sent, expected, quick):
    for pieces in ([sent], [sent[:1], sent[1:]]):
        with connected(quick) as connection:
            for piece in pieces:
                send(connection, piece)
                time.sleep(0.01)
            connection.shutdown(socket.SHUT_WR)
            assert statuses(all_of(connection)) == expected


@pytest.mark.parametrize("before", [b"", GET])
def test_empty_lines_keep_no_connection_open(before, quick):
    with connected(quick) as connection:
        send(connection, before)
        assert seconds_taking(connection, b"\r\n") < 7


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_who_asks_for_another_protocol_gets_this_one(protocol, quick, caplog):
    upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    with connected(quick) as connection:
        send(connection, upgrade)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(all_of(connection)) == [200]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


STREAM = json.dumps({"model": "org/toy", "prompt": "x", "max_tokens": 20, "stream": True}).encode()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (GET, [200]),
        (WHOLE, [200]),
        (GET + WHOLE + GET, [200] * 3),
        (POST + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM, [200]),
        (WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
        (WHOLE.replace(b"Host", b"Connection: close\r\nHost"), [200]),
        (b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n", [200]),
    ],
)
def test_who_closes_one_half_gets_the_answer(sent, expected, in_thread):
    with in_thread(delay_s=0.02) as (url, engine), connected(url) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = all_of(connection)
        assert [status for status in statuses(received) if status != 100] == expected
        assert engine.cancelled == []
        if STREAM in sent:
            assert b"data: [DONE]" in received


@pytest.mark.parametrize(
    "sent",
    [
        GET[:-2],
        POST + b"Content-Length: 99\r\n\r\nab",
        POST + b"Expect: 100-continue\r\nContent-Length: 99\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_half_a_request_and_the_end(sent, quick):
    with connected(quick) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = all_of(connection)
    assert [status for status in statuses(received) if status != 100] == [400]
    assert b"ends before it is complete" in received


def test_resets_leave_nothing_behind(in_thread):
    with in_thread(delay_s=0.02) as (url, engine):
        for sent in (b"", GET[:9], GET, POST + b"Content-Length: 99\r\n\r\n{", WHOLE) * 5:
            with connected(url) as connection:
                connection.sendall(sent)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ask(url)[0] == 200
        deadline = time.perf_counter() + ENDS_WITHIN_S
        while engine.open and time.perf_counter() < deadline:
            time.sleep(0.02)
        assert not engine.open


@pytest.mark.parametrize(
    "options",
    [HttpOptions(max_connections_per_client=8), HttpOptions(max_connections=8, max_connections_per_client=8)],
)
def test_idle_connections_make_room(options, in_thread):
    """Those that never asked go first; the one that has stays."""
    with in_thread(options) as (url, _):
        regular = http.client.HTTPConnection(url.removeprefix("http://"), timeout=ENDS_WITHIN_S)
        regular.request("GET", "/v1/models")
        assert regular.getresponse().read()
        idle = []
        for _ in range(40):
            idle.append(socket.create_connection(regular.sock.getpeername(), ENDS_WITHIN_S))
            idle[-1].sendall(b"GET /he")
        assert ask(url)[0] == 200
        regular.auto_open = 0
        regular.request("GET", "/v1/models")
        assert regular.getresponse().status == 200
        regular.close()
        assert all_of(idle[0]) == b""
        for connection in idle:
            connection.close()


def test_connections_that_are_busy_are_not_closed_for_others(in_thread):
    options = HttpOptions(max_connections_per_client=3)
    with in_thread(options, delay_s=0.02) as (url, _), ExitStack() as stack:
        busy = [stack.enter_context(connected(url)) for _ in range(3)]
        body = json.dumps({"model": "org/toy", "prompt": "x", "max_tokens": 60}).encode()
        for connection in busy:
            connection.sendall(POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        time.sleep(0.3)
        with connected(url) as refused:
            received = all_of(refused)
        assert statuses(received) == [503]
        assert b"too_many_connections" in received
        assert [statuses(all_of(connection)) for connection in busy] == [[200]] * 3
