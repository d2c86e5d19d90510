"""`chat` with whatever a URL may lead to: one line that says what was got, never a traceback, or half an
answer that passes for a whole one."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from click.testing import Result
from typer.testing import CliRunner

from wrinklefree_inference import EngineError
from wrinklefree_inference.cli import app
from wrinklefree_inference.commands.chat import answer
from wrinklefree_inference.engines.base import AnswerStream, Sampling
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.engines.openai_answers import answer_pieces
from wrinklefree_inference.options import ClientOptions

LIST = b'{"data":[{"id":"m"}]}'
HELLO = b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
NO_PIECE = "did not answer with a piece of an answer"
RESET = struct.pack("ii", 1, 0)


def response(body: bytes, status: str = "200 OK", kind: str = "application/json", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def stream(*events: bytes) -> bytes:
    """Ends with the connection, as HTTP/1.0 does: that alone does not tell whether it is whole."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + b"".join(
        events
    )


class Stranger:
    """Answers `GET` and `POST` with given bytes; an answer that ends in `RESET` ends in a reset."""

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}
        self.heads: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection:
                head = connection.recv(1 << 16)
                if not head:
                    return
                self.heads.append(head)
                answer = self.answers[head.split(b" ")[0]]
                if answer.endswith(RESET):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                try:
                    connection.sendall(answer.removesuffix(RESET))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass
                except OSError:  # the client has heard enough
                    continue

    def close(self) -> None:
        socket.create_connection(self.listener.getsockname()).close()
        self.thread.join()
        self.listener.close()


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    server = Stranger()
    yield server
    server.close()


@pytest.fixture
def chat(stranger: Stranger) -> Callable[[bytes, bytes], Result]:
    def ask(models: bytes, answer: bytes = b"") -> Result:
        stranger.answers = {b"GET": models, b"POST": answer}
        return CliRunner().invoke(app, ["chat", "--model", stranger.url, "--prompt", "Hello"])

    return ask


def check_refused(result: Result, url: str, message: str, num_lines: int = 1) -> None:
    assert result.exit_code == 1, result.exception
    lines = result.stderr.splitlines()
    assert len(lines) == num_lines, result.stderr
    assert lines[-1].startswith(f"error: {url} "), lines[-1]
    assert message in lines[-1]
    assert len(lines[-1]) < 500
    assert lines[-1].isprintable()


NO_LIST = [
    (response(b"[]"), "did not answer with a list of models: Input should be an object, got []"),
    (response(b'{"data":5}'), "data: Input should be a valid array, got 5"),
    (response(b'{"data":[{"id":7}]}'), "data.0.id: Input should be a valid string, got 7"),
    (response(b'{"data":[{"id":"m","meta":{"size":"x"}}]}'), "data.0.meta.size: Input should"),
    (response(b'{"data":[{"id":"m","max_model_len":-1}]}'), "data.0.max_model_len"),
    (response(b'{"data":[{"id":"\\ud800"}]}'), "Invalid JSON"),
    (response(b'{"models":[]}'), "data: Field required"),
    (response(b'{"data":[]}'), "lists no model"),
    (response(b"<html>\x1b[31m</html>", kind="text/html"), r"got b'<html>\x1b[31m</html>'"),
    (response(b"[" * 10_000), "Invalid JSON: recursion limit exceeded"),
    (response(b"\xff\xfe"), r"got b'\xff\xfe'"),
    (response(b"", "204 No Content"), "answered 204 No Content"),
    (response(b"", "302 Found", "", "Location: https://x.example/\x1b[2J"), "did not answer in HTTP"),
    (response(b"", "301 Moved", "", "Location: https://x.example"), "to https://x.example: give the URL"),
    (response(b"\x1b]0;x\x07\r\nno", "500 Oh"), r"refused the request (500 Oh): \x1b]0;x\x07\r\nno"),
    (response(b'{"error":{"message":"a\\u001b[2J"}}', "400 Bad"), r"refused the request (400 Bad): a\x1b[2J"),
    (response(b'{"error":{"message":7}}', "400 Bad"), "refused the request (400 Bad): {'message': 7}"),
    (response(b"", "401 Unauthorized"), "refused the request (401 Unauthorized): without a reason"),
    (response(gzip.compress(bytes(1 << 20)), "200 OK", "", "Content-Encoding: gzip"), "encoding gzip"),
    (response(gzip.compress(LIST), "500 Oh", "", "Content-Encoding: gzip, gzip"), "encoding gzip, gzip"),
    (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (17 << 20), "answered with more than 16 MiB"),
    (b"HTTP/1.1 500 No\r\n\r\n" + b" " * (17 << 20), "answered with more than 16 MiB"),
    (response(LIST)[:-5], "broke off the answer: peer closed connection"),
    (b"220 smtp.example ESMTP\r\n\r\n", "did not answer in HTTP: illegal status line"),
    (b"\x1b[2J\x00\r\n\r\n", "did not answer in HTTP"),
    (b"", "did not answer in HTTP: Server disconnected"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "message"), NO_LIST)
def test_what_is_no_list_of_models(answer, message, chat, stranger):
    check_refused(chat(answer), stranger.url, message)


NO_ANSWER = [
    (stream(HELLO), "cut off the answer: its stream ended without [DONE]", "Hel"),
    (stream(HELLO, b'data: {"choices":[{"del'), "cut off the answer", "Hel"),
    (stream(HELLO, b'data: {"choices":[{"del\n\n'), f"{NO_PIECE}: Invalid JSON", "Hel"),
    (stream(HELLO, b'data: {"error":{"message":"a\\nb"}}\n\n'), r"broke off the answer: a\nb", "Hel"),
    (stream(HELLO, b'data: {"error":"\\u001b[2J"}\n\n'), r"broke off the answer: \x1b[2J", "Hel"),
    (stream(b"data: xx\n\n", DONE), "Invalid JSON: expected value at line 1 column 1, got b'xx", ""),
    (stream(b"data: []\n\n", DONE), "Input should be an object, got []", ""),
    (stream(b"data: {}\n\n", DONE), "has no choices, got b'{}", ""),
    (stream(b'data: {"object":"error","message":"no"}\n\n'), "has no choices", ""),
    (stream(b"data: \xff\xfe\n\n", DONE), r"got b'\xff\xfe", ""),
    (stream(b'data: {"choices":[{"delta":{"content":7}}]}\n\n', DONE), "choices.0.delta.content: ", ""),
    (stream(b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n', DONE), "Invalid JSON: ", ""),
    (stream(b'data: {"choices":5}\n\n', DONE), "choices: Input should be a valid array", ""),
    (stream(HELLO, b'data: {"choices":[],"usage":"x"}\n\n', DONE), "usage: Input should be an object", "Hel"),
    (stream(HELLO, b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":-5}}\n\n', DONE),
     "usage.completion_tokens", "Hel"),
    (stream(b"data: " + b"x" * (2 << 20)), "a piece of an answer of more than 1 MiB", ""),
    (stream(b"data: x\n" * (1 << 20)), "a piece of an answer of more than 1 MiB", ""),
    (stream(), "cut off the answer", ""),
    (response(HELLO, "200 OK", "text/event-stream").replace(b"Length: ", b"Length: 9"), "broke off", "Hel"),
    (response(b'{"choices":[]}'), "did not answer with a stream of events, but with 'application/json'", ""),
    (response(b"", "204 No Content"), "answered 204 No Content", ""),
    (stream(HELLO).replace(b"Conn", b"Content-Encoding: br\r\nConn", 1), "encoding br", ""),
    (RESET, "did not answer in HTTP", ""),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "message", "text"), NO_ANSWER)
def test_what_is_no_whole_answer(answer, message, text, chat, stranger):
    result = chat(response(LIST), answer)
    check_refused(result, stranger.url, message, num_lines=2)
    assert result.stdout == (f"{text}\n" if text else "")


@pytest.mark.parametrize(
    "end",
    [
        DONE,
        DONE.strip(),
        b"data:[DONE]\r\n\r\n",
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
        b': a comment\n\nevent: ping\ndata: {"choices":[{"delta":\ndata: {},"finish_reason":"length"}]}\n',
        b'data: {"choices":[],"usage":null}\n\ndata: [DONE]\n\ndata: never read',
    ],
)
def test_what_is_a_whole_answer(end, chat):
    result = chat(response(LIST), stream(HELLO, end))
    assert (result.exit_code, result.stdout) == (0, "Hel\n"), result.output


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 1000])
def test_lines_of_a_stream_end_in_three_ways(line_end, piece_bytes):
    event = 'event: x\ndata: {"choices":[\ndata: {"delta":{"content":"Hel\\n"}}]}\n\n: c\n\ndata: [DONE]\n\n'
    sent = event.replace("\n", line_end).encode()
    pieces = [sent[start : start + piece_bytes] for start in range(0, len(sent), piece_bytes)]
    assert [*answer_pieces(pieces)] == ["Hel\n"]


def test_names_do_not_steer_the_terminal(chat):
    name = "m\x1b[2J\n" + "x" * 500
    result = chat(response(json.dumps({"data": [{"id": name}]}).encode()), stream(HELLO, DONE))
    assert result.exit_code == 0
    assert result.stderr.startswith(r"m\x1b[2J\nx")
    assert len(result.stderr) < 350


STEERING = "\x1b]0;x\x07\x9b2J\x85a\rb\u202ec\u2066d\x7f"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_answers_do_not_steer_the_terminal(is_terminal, capsys, monkeypatch):
    """Whichever engine: what a pipe gets are the answer's own characters."""

    class Echo:
        def chat(self, messages, sampling):
            return AnswerStream(["one\n\ttwo é 👩\u200d🚀 ", *STEERING])

    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    text = answer(Echo(), [], Sampling())
    escaped = r"\x1b]0;x\x07\x9b2J\x85a\rb\u202ec\u2066d\x7f"
    assert text.endswith(STEERING)
    assert capsys.readouterr().out == f"one\n\ttwo é 👩\u200d🚀 {escaped if is_terminal else STEERING}\n"


def test_a_server_that_stalls(stranger):
    """It says what it will send, and does not."""
    stranger.answers = {b"GET": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"}
    listener = socket.create_server(("127.0.0.1", 0))
    engine = OpenAIEngine(f"http://127.0.0.1:{listener.getsockname()[1]}", ClientOptions(timeout_s=0.1))
    with listener, pytest.raises(EngineError, match="did not answer in time"):
        _ = engine.facts
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        _ = engine.facts


def test_nothing_compressed_is_asked_for(chat, stranger):
    chat(response(LIST), stream(HELLO, DONE))
    assert all(b"accept-encoding: identity" in head.lower() for head in stranger.heads[-2:])


@pytest.mark.parametrize("value", ["nonsense://x", "http://[::1", "http://x:y"])
def test_a_proxy_that_is_none(value, monkeypatch):
    monkeypatch.setenv("http_proxy", value)
    monkeypatch.delenv("no_proxy", raising=False)
    result = CliRunner().invoke(app, ["chat", "--model", "http://models.invalid", "--prompt", "x"])
    assert result.exit_code == 2, result.exception
    assert "the proxy that the environment names" in result.stderr


@pytest.mark.parametrize("url", ["http://a..b", "http://" + "a" * 70, "http://a\x00b", "http://\udcff"])
def test_hosts_that_are_none(url):
    result = CliRunner().invoke(app, ["chat", "--model", url, "--prompt", "x"])
    assert result.exit_code == 2, result.exception
    assert "is not a server's URL" in result.stderr
    assert len(result.stderr.splitlines()) == 1
