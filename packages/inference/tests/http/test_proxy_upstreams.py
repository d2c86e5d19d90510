"""What the proxy makes of servers behind that misbehave: never a whole answer that was none, never much
memory."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import threading
import time
from contextlib import AsyncExitStack

import httpx
import pytest

from wf_formats.errors import RequestError
from wrinklefree_inference.http.proxy import create_proxy
from wrinklefree_inference.http.upstream import Upstream


class Behind:
    """A server behind that says these pieces to everything, then holds the connection if it is told to."""

    def __init__(self, *pieces: bytes, holds: bool = False) -> None:
        self.pieces, self.holds = pieces, holds
        self.num_sent_bytes = 0
        self.heads: list[bytes] = []

    async def __call__(self, reader, writer) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                self.num_sent_bytes += len(piece)
            if self.holds:
                await reader.read()
        except OSError:  # the proxy has heard enough
            pass
        finally:
            writer.close()


class Gate:
    """Proxies in a thread, before a server whose part `behind` plays; one waits 5 s for it, one 0.1 s."""

    def __init__(self, listening) -> None:
        self.behind = Behind()
        self.urls: dict[float, str] = {}
        self._listening, self._ready = listening, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        server = await asyncio.start_server(lambda *ends: self.behind(*ends), "127.0.0.1", 0)
        async with AsyncExitStack() as stack:
            for timeout_s in (5.0, 0.1):
                url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                upstream = Upstream(url, timeout_s=timeout_s)
                stack.push_async_callback(upstream.aclose)
                proxy = create_proxy(upstream)
                running = self._listening(proxy)
                self.urls[timeout_s] = await stack.enter_async_context(running)
            self._ready.set()
            await self._stop.wait()
        server.close()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def reply(
        self, *pieces: bytes, holds=False, timeout_s=5.0, path="/v1/models", **headers
    ) -> httpx.Response:
        """What a client gets where the server behind says this."""
        self.behind = Behind(*pieces, holds=holds)
        return httpx.get(f"{self.urls[timeout_s]}{path}", headers=headers, trust_env=False)


@pytest.fixture(scope="module")
def gate(listening_of_module):
    with Gate(listening_of_module) as opened:
        yield opened


def head(kind="application/json", status="200 OK", *lines):
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *lines, "", ""]).encode()


EVENTS = head("text/event-stream")
ZIPPED = head("text/plain", "200 OK", "Content-Encoding: gzip") + gzip.compress(bytes(1 << 20))
CUT_OFF = head("text/plain", "200 OK", "Content-Length: 100") + b"half"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"220 smtp.example ESMTP\r\n\r\n", "invalid"),
        (b"", "invalid"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "invalid"),
        (head("text/html", "302 Found", "Location: https://x.example", "Content-Length: 0"), "refused"),
        (head("text/html", "308 Moved", "Location: http://[", "Content-Length: 0"), "refused"),
        (head("text/html", "304 Not Modified"), "refused"),
        (head("text/html", "999 Odd", "Content-Length: 0"), "refused"),
        (ZIPPED, "refused"),
        (CUT_OFF, "broke_off"),
        (head("text/plain", "200 OK", "Transfer-Encoding: chunked") + b"5\r\nhe", "broke_off"),
    ],
)
def test_why_there_is_no_answer(answer, code, gate):
    reply = gate.reply(answer)
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == f"upstream_{code}"
    assert ("redirects" in reply.text) == (b" 30" in answer)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", CUT_OFF])
def test_a_server_that_stalls_before_its_end(answer, gate):
    reply = gate.reply(answer, holds=True, timeout_s=0.1)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")


HELLO = b'data: {"choices":[{"delta":{"content":"data: [DONE] \\"finish_reason\\":\\"stop\\""}}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data:[DONE]", FINISH])
def test_whole_streams_pass_as_they_are(end, gate):
    pieces = [bytes([byte]) for byte in HELLO + end]
    assert gate.reply(EVENTS, *pieces).content == HELLO + end


@pytest.mark.parametrize(
    ("holds", "code"), [(False, "upstream_broke_off"), (True, "upstream_timeout")], ids=["ends", "stalls"]
)
@pytest.mark.parametrize("sent", [b"", HELLO, HELLO[:-1], HELLO * 2])
def test_a_stream_without_its_end_gets_an_error_event(sent, holds, code, gate):
    reply = gate.reply(EVENTS, sent, holds=holds, timeout_s=0.1)
    assert reply.content.startswith(sent + b'\ndata: {"error":')
    assert code in reply.text.removeprefix(sent.decode())


@pytest.mark.parametrize(
    "answer",
    [
        EVENTS + HELLO + HELLO[:20],
        head("text/plain", "200 OK", "Content-Length: 2000000") + b"x" * 1_500_000,
        head("text/plain", "200 OK", "Transfer-Encoding: chunked") + b"200000\r\n" + b"x" * 1_500_000,
    ],
    ids=["line", "length", "chunk"],
)
def test_where_no_error_has_a_place_the_connection_ends(answer, gate, caplog):
    """The log has one line of it beside that of the request."""
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        gate.reply(answer)
    told = [(record.levelname, record.message) for record in caplog.records if record.levelno > logging.INFO]
    assert told == [("WARNING", "the answer ends before its end: the server behind broke off its answer")]


@pytest.mark.parametrize("num_bytes", [0, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_long_answers_pass_whole(num_bytes, gate):
    body = b"abcdefg" * (num_bytes // 7) + b"x" * (num_bytes % 7)
    answer = head("text/plain", "429 Too Many", f"Content-Length: {num_bytes}", "Retry-After: 3")
    reply = gate.reply(answer, body)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
    assert reply.headers["content-type"] == "text/plain"
    assert reply.content == body


@pytest.mark.parametrize("first", [EVENTS, head("text/plain")], ids=["stream", "body"])
def test_what_no_client_takes_is_not_taken(first, gate):
    """128 MiB behind, a client that reads nothing: no more leaves the server behind than buffers hold."""
    gate.behind = Behind(first, *[bytes(1 << 16)] * 2048)
    host, port = gate.urls[5.0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        seen = -1
        while gate.behind.num_sent_bytes != seen or seen == 0:
            seen = gate.behind.num_sent_bytes
            time.sleep(0.2)
    assert 1 << 16 < seen < 32 << 20


def test_health_needs_no_more_than_the_status(gate):
    reply = gate.reply(head(), *[bytes(1 << 16)] * 64, holds=True, path="/health")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})


def test_headers_of_any_bytes_pass(gate):
    reply = gate.reply(head("text/plain", "200 OK", "Content-Length: 2"), b"{}", accept="ü/*".encode())
    assert reply.status_code == 200
    lines = gate.behind.heads[0].lower().split(b"\r\n")
    assert "accept: ü/*".encode() in lines
    assert b"accept-encoding: identity" in lines


@pytest.mark.parametrize(
    ("url", "key"), [("http://a..b", None), ("http://x:0", None), ("http://x", "ключ\n")]
)
def test_what_is_no_server_or_key_is_refused_at_the_start(url, key):
    with pytest.raises(RequestError, match="must be printable ASCII" if key else "is not a server's URL"):
        Upstream(url, key)
