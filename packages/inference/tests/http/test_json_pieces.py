"""Large answers in pieces: the same JSON, and a loop that others can use meanwhile."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrinklefree_inference.http.json_pieces import Items, PiecewiseResponse, encoded, pieces
from wrinklefree_inference.native.inbox import MAX_TAKEN_TOKENS, Inbox, Slot
from wrinklefree_inference.native.request import Delta

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_pieces_are_the_json(value):
    assert b"".join(pieces(value)) == encoded(value)


@given(st.lists(JSON, max_size=4))
def test_items_are_the_list(values):
    whole = {"a": [{"b": Items([encoded(value) for value in values])}]}
    assert b"".join(pieces(whole)) == encoded({"a": [{"b": values}]})


def test_a_large_body_is_sent_in_pieces_and_lets_others_run():
    """12 MB: no piece is large, and a task beside it has a turn between any two of them."""
    token = encoded({"token": "a", "top_logprobs": [{"token": "b", "logprob": -1.0}] * 20})
    sent, turns = [], []

    async def send(message):
        sent.append(message)

    async def beside():
        while True:
            turns.append(time.perf_counter())
            await asyncio.sleep(0)

    async def main():
        other = asyncio.create_task(beside())
        await PiecewiseResponse({"content": Items([token] * 20_000)})({"type": "http"}, None, send)
        other.cancel()

    asyncio.run(main())
    body = b"".join(message["body"] for message in sent[1:])
    headers = dict(sent[0]["headers"])
    assert int(headers[b"content-length"]) == len(body) > 10_000_000
    assert json.loads(body)["content"][-1]["token"] == "a"
    assert max(len(message["body"]) for message in sent[1:]) < 80_000
    assert len(turns) >= len(sent) - 2
    assert not sent[-1]["more_body"]


def test_a_reader_that_comes_back_late_takes_a_little_at_a_time():
    async def main():
        inbox = Inbox()
        slot = Slot(inbox, 0, max_unread=200)
        for i in range(200):
            assert not slot.is_full()
            slot.put(Delta(str(i)))
        assert slot.is_full()
        sizes, texts = [], []
        while len(texts) < 200:
            taken = await inbox.take()
            sizes.append(len(taken))
            texts += [delta.text for _, delta in taken]
            assert slot.is_full() == (200 - len(texts) >= 100)  # half of them must have gone
        return sizes, texts

    sizes, texts = asyncio.run(main())
    assert max(sizes) == MAX_TAKEN_TOKENS
    assert texts == [str(i) for i in range(200)]


@pytest.mark.parametrize(("num_tokens", "num_unread"), [(17, 8), (100, 2), (300, 2)])
def test_what_waits_and_what_is_taken_is_bounded_in_tokens(num_tokens, num_unread):
    """A step may add 17 of them, where they are guessed, and the pieces of an echoed prompt are longer."""

    async def main():
        inbox = Inbox()
        slots = [Slot(inbox, number) for number in range(2)]
        delta = Delta("x", tuple(range(num_tokens)))
        num_put = 0
        while not slots[0].is_full():
            slots[0].put(delta)
            num_put += 1
        assert not slots[1].is_full(), "each answer for itself"
        taken = await inbox.take()
        assert len(taken) == max(1, MAX_TAKEN_TOKENS // num_tokens)
        while inbox.has_more:
            taken += await inbox.take()
        assert not slots[0].is_full()
        return num_put, len(taken)

    assert asyncio.run(main()) == (num_unread, num_unread)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_streams_that_nobody_reads_do_not_stop_the_others(path, in_thread):
    """16 answers with alternatives, not read and then closed: another client is answered all the time."""
    import socket

    import httpx

    ask = {"model": "org/toy", "n": 16, "max_tokens": 400, "stream": True}
    if path == "/v1/completions":
        ask |= {"prompt": "x", "logprobs": 5}
    else:
        ask |= {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 20}
    body = json.dumps(ask).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    with in_thread(max_running=64, max_waiting=64, context_tokens=1000) as (url, engine):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
            waits = _waits(url, 1.0)
        waits += _waits(url, 0.5)
        *most, longest = sorted(waits)
        assert most[-1] < 0.5
        assert longest < 4, "one may meet first imports, or another program on the cores"
        deadline_s = time.monotonic() + 5
        while engine.open and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert engine.open == set()
        assert httpx.get(f"{url}/health").status_code == 200


def _waits(url: str, seconds: float) -> list[float]:
    """Seconds of each answer to another client."""
    import httpx

    waits, end_s = [], time.monotonic() + seconds
    with httpx.Client() as client:
        while time.monotonic() < end_s:
            start_s = time.monotonic()
            assert client.get(f"{url}/v1/models").status_code == 200
            waits.append(time.monotonic() - start_s)
            time.sleep(0.01)
    return waits
