"""Clients that leave, and slow ones, over real sockets."""

from __future__ import annotations

import asyncio
import time

import httpx
import openai
import pytest

from wrinklefree_inference.http.app import create_server

ASK = {"model": "org/toy", "prompt": "x", "max_tokens": 400}


async def until(condition, timeout_s: float = 3.0) -> float:
    started = time.perf_counter()
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
    return time.perf_counter() - started


@pytest.mark.parametrize("where", ["streaming", "waiting", "whole"])
def test_the_engine_s_work_is_cancelled(where, toy, listening, caplog):
    """In the middle of a stream, while still in the queue, and while the whole answer is being made."""
    caplog.set_level("INFO")

    async def main():
        engine = toy.ToyEngine(delay_s=0.02, max_running=1, context_tokens=2000)
        server = create_server(engine)
        async with listening(server, engine.drain) as url, httpx.AsyncClient(base_url=url) as client:
            first = None
            if where == "waiting":
                first = asyncio.create_task(client.post("/v1/completions", json=ASK))
                await until(lambda: len(engine.open) == 1)
            asking = asyncio.create_task(
                _read(client, stream=where != "whole", until_data=where == "streaming")
            )
            await until(lambda: len(engine.open) == (2 if first else 1))
            if where == "streaming":
                await until(asking.done)
            else:
                await asyncio.sleep(0.05)
                asking.cancel()
            num_left = 1 if first else 0
            took_s = await until(lambda: len(engine.open) == num_left)
            assert took_s < 1
            assert len(engine.cancelled) == 1
            if first:
                first.cancel()
                await until(lambda: not engine.open)
            await until(lambda: server.lifecycle.inflight == 0)
            return server

    server = asyncio.run(main())
    left = server.metrics.registry.get_sample_value("wf_clients_left_total")
    assert left == (2 if where == "waiting" else 1)
    outcomes = [r.fields["outcome"] for r in caplog.records if r.message == "request"]
    assert set(outcomes) == {"client_left"}
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


async def _read(client: httpx.AsyncClient, stream: bool, until_data: bool) -> None:
    async with client.stream("POST", "/v1/completions", json=ASK | {"stream": stream}) as reply:
        async for line in reply.aiter_lines():
            if until_data and line.startswith("data: "):
                return


def test_streams_run_side_by_side(in_thread):
    """Eight official clients at once get their own texts."""
    with in_thread(delay_s=0.002) as (url, engine):

        async def one(seed: int) -> str:
            async with openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0) as client:
                stream = await client.completions.create(
                    model="org/toy", prompt="x", max_tokens=50, seed=seed, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

        async def main() -> list[str]:
            return await asyncio.gather(*map(one, range(8)))

        texts = asyncio.run(main())
    text = __import__("sys").modules["toy_engine"].TEXT * 3
    assert texts == [text[seed : seed + 50] for seed in range(8)]
    assert engine.cancelled == []


def test_tokens_come_as_they_are_made(in_thread):
    with in_thread(delay_s=0.05) as (url, _), openai.OpenAI(api_key="x", base_url=f"{url}/v1") as client:
        started = time.perf_counter()
        stream = client.completions.create(model="org/toy", prompt="x", max_tokens=6, stream=True)
        times_s = [time.perf_counter() - started for _ in stream]
    assert times_s[0] < 0.2
    assert times_s[-1] - times_s[0] > 0.15


def test_garbage_does_not_disturb(in_thread):
    import socket

    with in_thread() as (url, _):
        host, port = url.removeprefix("http://").split(":")
        for garbage in (
            b"\x00\xff" * 500,
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\n\r\n",
        ):
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(garbage)
                assert connection.recv(100).startswith(b"HTTP/1.1 4")
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
