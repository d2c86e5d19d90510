"""SIGTERM and SIGINT: answers end, new ones are refused, the exit code is 0."""

from __future__ import annotations

import json
import signal
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


def test_after_the_timeout_they_are_cut_off(process):
    with process(0.03, 0.2) as (child, url), httpx.Client(base_url=url) as client:
        with client.stream("POST", "/v1/completions", json=ASK | {"max_tokens": 400}) as reply:
            lines = lines_of(reply)
            next(lines)
            child.terminate()
            *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] in (
            "engine_unavailable",
            "shutting_down",
        )
        assert child.wait(5) == 0


def test_a_second_signal_stops_at_once(process):
    with (
        process(0.03, 20) as (child, url),
        httpx.Client(base_url=url) as client,
        client.stream("POST", "/v1/completions", json=ASK | {"max_tokens": 400}) as reply,
    ):
        lines = lines_of(reply)  # kept: dropping it would close the connection
        next(lines)
        child.terminate()
        time.sleep(0.2)
        started = time.perf_counter()
        child.terminate()
        assert child.wait(5) == 0
        assert time.perf_counter() - started < 2
        with pytest.raises(httpx.HTTPError):
            assert "[DONE]" in list(lines)


def test_an_idle_server_stops_at_once(process):
    with process(0, 20) as (child, url):
        assert httpx.get(f"{url}/health").status_code == 200
        started = time.perf_counter()
        child.terminate()
        assert child.wait(5) == 0
        assert time.perf_counter() - started < 1.5
