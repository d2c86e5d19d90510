"""SIGTERM and SIGINT: answers end, new ones are refused, the exit code is 0."""

from __future__ import annotations

import json
import signal
import socket
import time

import httpx
import pytest

ASK = {"model": "org/toy", "prompt": "x", "stream": True, "max_tokens": 30}


def lines_of(reply):
    return (line for line in reply.iter_lines() if line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_answers_end(number, process):
    with process(0.03, 20) as (child, url), httpx.Client(base_url=url) as client:
        with client.stream("POST", "/v1/completions", json=ASK) as reply:
            lines = lines_of(reply)
            next(lines)
            child.send_signal(number)
            time.sleep(0.15)
            refused = client.post("/v1/completions", json=ASK)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            health = client.get("/health")
            assert (health.status_code, health.json()) == (503, {"status": "draining"})
            rest = list(lines)
        assert rest[-1] == "data: [DONE]"
        assert len(rest) == 30
        assert child.wait(5) == 0
        log = [json.loads(line) for line in child.stderr]
        assert [x["message"] for x in log] == [f"stopping on {number.name}", "request", "request"]
        assert log[-1]["completion_tokens"] == 30


def posted(url, path, body, num_bytes=None):
    """A connection on which a request was sent."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), 10)
    content = json.dumps({"model": "org/toy"} | body).encode()
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:num_bytes])
    return connection


def answer_of(connection):
    """All that comes until the server closes."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def costly(seconds):
    return {"messages": [{"role": "user", "content": f"costly {seconds}"}], "max_tokens": 2}


def test_a_request_has_its_time_wherever_it_is(process):
    """One is rendered, one waits for its turn at that, the body of one has not come."""
    with process(0.03, 20) as (child, url):
        taken = [posted(url, "chat/completions", costly(0.4)) for _ in range(2)]
        taken.append(posted(url, "completions", {"prompt": "x"}, num_bytes=5))
        time.sleep(0.2)
        child.terminate()
        time.sleep(0.1)
        taken[-1].sendall(json.dumps({"model": "org/toy", "prompt": "x"}).encode()[5:])
        for connection in taken:
            assert answer_of(connection).startswith(b"HTTP/1.1 200")
        assert child.wait(5) == 0
        assert "Traceback" not in child.stderr.read()


def test_after_the_timeout_they_are_cut_off(process):
    """Each in its own way, wherever it is, and without a trace."""
    with process(0.03, 0.2) as (child, url), httpx.Client(base_url=url) as client:
        taken = [
            *(posted(url, "chat/completions", costly(1.2)) for _ in range(2)),
            posted(url, "completions", {"prompt": "x"}, num_bytes=5),
            posted(url, "completions", {"prompt": "x", "max_tokens": 400}),
        ]
        with client.stream("POST", "/v1/completions", json=ASK | {"max_tokens": 400}) as reply:
            lines = lines_of(reply)
            next(lines)
            started = time.perf_counter()
            child.terminate()
            *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"
        answers = [answer_of(connection) for connection in taken]
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers)
        codes = [json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] for answer in answers]
        assert codes == ["shutting_down"] * 3 + ["engine_unavailable"]
        assert child.wait(5) == 0
        assert time.perf_counter() - started < 3
        log = child.stderr.read()
        assert "Traceback" not in log
        assert "ASGI" not in log


def test_a_second_signal_stops_at_once(process):
    with (
        process(0.03, 20) as (child, url),
        httpx.Client(base_url=url) as client,
        client.stream("POST", "/v1/completions", json=ASK | {"max_tokens": 400}) as reply,
    ):
        lines = lines_of(reply)  # kept: dropping it would close the connection
        next(lines)
        taken = [posted(url, "chat/completions", costly(0.8)) for _ in range(3)]
        time.sleep(0.1)
        child.terminate()
        time.sleep(0.2)
        started = time.perf_counter()
        child.terminate()
        assert child.wait(5) == 0
        assert time.perf_counter() - started < 2
        with pytest.raises(httpx.HTTPError):
            assert "[DONE]" in list(lines)
        assert all(answer_of(connection).startswith(b"HTTP/1.1 503") for connection in taken)
        assert "Traceback" not in child.stderr.read()


def test_an_idle_server_stops_at_once(process):
    with process(0, 20) as (child, url):
        assert httpx.get(f"{url}/health").status_code == 200
        started = time.perf_counter()
        child.terminate()
        assert child.wait(5) == 0
        assert time.perf_counter() - started < 1.5
