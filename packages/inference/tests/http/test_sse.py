"""Framing of server-sent events: any JSON comes back from the official client's own decoder."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from wrinklefree_inference.http.errors import ClientLeft
from wrinklefree_inference.http.sse import DONE, KEEP_ALIVE, EventStream, frame, unless_client_leaves

TEXTS = st.text() | st.sampled_from(["\n", "\r\n", "data: x\n\n", "\u2028", "\x00", "😀"])
OBJECTS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS), max_size=4)


@given(st.lists(OBJECTS, max_size=5), st.integers(1, 20))
def test_frames_survive_any_cut(objects, size):
    """However the bytes are cut on their way, and with comments between."""
    sent = KEEP_ALIVE.join([b"", *map(frame, objects), DONE])
    pieces = (sent[i : i + size] for i in range(0, len(sent), size))
    events = [event.data for event in SSEDecoder().iter_bytes(pieces) if event.data]
    assert events.pop() == "[DONE]"
    assert [json.loads(data) for data in events] == objects


def test_half_a_surrogate_pair_does_not_break_a_stream():
    assert json.loads(frame({"a": "x\ud800"}).decode().removeprefix("data: ")) == {"a": "x?"}


async def never():
    await asyncio.Event().wait()


def test_work_is_cancelled_when_the_client_leaves():
    ended = []

    async def work():
        try:
            await never()
        finally:
            ended.append(True)

    messages = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive():
        await asyncio.sleep(0)
        return messages.pop(0)

    with pytest.raises(ClientLeft):
        asyncio.run(unless_client_leaves(receive, work()))
    assert ended == [True]


def test_an_error_of_the_work_is_raised():
    async def work():
        raise ValueError("it")

    with pytest.raises(ValueError, match="it"):
        asyncio.run(unless_client_leaves(never, work()))


def test_the_source_is_closed_with_the_stream():
    closed, released = [], []

    async def release():
        released.append(True)

    async def source():
        try:
            yield [b"a", b"b"]
            await never()
        finally:
            closed.append(True)

    sent = []

    async def main():
        got = asyncio.Event()

        async def send(message):
            sent.append(message)
            if message.get("body"):
                got.set()

        async def receive():
            await got.wait()
            return {"type": "http.disconnect"}

        from wrinklefree_inference.http.record import begin

        scope = {"type": "http", "path": "/v1/completions"}
        record = begin(scope)
        await EventStream(source(), release)(scope, receive, send)
        return record

    record = asyncio.run(main())
    assert record.outcome == "client_left"
    assert closed == released == [True]
    assert [message.get("body") for message in sent] == [None, b"ab"]
