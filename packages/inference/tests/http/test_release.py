"""What stands behind an answer is let go however the answer ends, also before its first piece was read."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import httpx
import pytest

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.http.generation import Generation
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.record import RequestRecord
from wrinklefree_inference.http.sse import EventStream
from wrinklefree_inference.native.request import GenerationRequest, SamplingParams


async def ask(app, send, stream: bool) -> None:
    """One request to an application, whose answer goes to `send`; its client stays."""
    body = {"model": "org/toy", "prompt": "x", "max_tokens": 400, "n": 2, "stream": stream}
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    path = "/v1/completions"
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    scope |= {"scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1)}
    await app(scope, receive, send)


def test_an_answer_that_cannot_be_begun_is_cancelled(toy):
    async def main():
        engine = toy.ToyEngine(delay_s=0.01)

        async def send(message):
            raise OSError("the connection is broken")

        await ask(create_server(engine).app, send, stream=True)  # which logs the error
        assert len(engine.seen) == 2
        assert not engine.open
        assert len(engine.cancelled) == 2

    asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_handler_cancels_what_it_asked_for(toy, stream):
    """At every moment between the request and the first piece of the answer."""

    async def main(num_turns: int) -> bool:
        engine = toy.ToyEngine(delay_s=0.2)

        async def send(message):
            await asyncio.Event().wait()

        asking = asyncio.create_task(ask(create_server(engine).app, send, stream))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        has_begun = bool(engine.seen)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not engine.open
        assert len(engine.cancelled) == len(engine.seen)
        return has_begun

    begun = [asyncio.run(main(num_turns)) for num_turns in range(1, 30)]
    assert True in begun


def test_a_dropped_generation_is_cancelled(toy):
    async def main():
        engine = toy.ToyEngine(delay_s=0.01)
        request = GenerationRequest((9,), SamplingParams(max_tokens=400), "r", "")
        generation = Generation(engine, [request] * 3, 3, RequestRecord("other"), Metrics())
        await generation.start()
        assert len(engine.open) == 3
        arrivals = generation.arrivals()
        del generation, arrivals
        gc.collect()
        assert not engine.open
        assert len(engine.cancelled) == 3

    asyncio.run(main())


def test_the_answer_of_the_server_behind_is_closed_before_it_is_read():
    """As the proxy hands it on: the connection goes back although nothing of it was read."""
    closed = []

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"data: 1\n\n"

        async def aclose(self):
            closed.append(True)

    async def pieces(answer):
        async for piece in answer.aiter_bytes():
            yield [piece]

    async def main():
        answer = httpx.Response(200, stream=Body())

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            raise OSError("the connection is broken")

        with pytest.raises(OSError, match="the connection is broken"):
            await EventStream(pieces(answer), answer.aclose)({"type": "http"}, receive, send)

    asyncio.run(main())
    assert closed == [True]
