"""Embeddings through the official client, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import struct

import httpx
import numpy as np
import pytest

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.http.embeddings import MAX_TOKENS, numbers
from wrinklefree_inference.options import AnswerOptions

PATH = "/v1/embeddings"


def ids_of(text):
    return tuple(map(ord, text))


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("ab", [ids_of("ab")]),
        (["ab", "c"], [ids_of("ab"), ids_of("c")]),
        ([97, 98], [(97, 98)]),
        ([[97, 98], [99]], [(97, 98), (99,)]),
    ],
)
@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_kinds_of_input(given, prompts, encoding, server, talk, toy, engine):
    async def work(http):
        more = {} if encoding is None else {"encoding_format": encoding}  # the client then asks for base64
        return await http.openai.embeddings.create(model="org/toy", input=given, **more)

    reply = talk(server, work)
    assert [item.index for item in reply.data] == list(range(len(prompts)))
    for item, ids in zip(reply.data, prompts, strict=True):
        assert (item.object, type(item.embedding)) == ("embedding", str if encoding == "base64" else list)
        found = item.embedding
        if isinstance(found, str):
            found = struct.unpack("<4f", base64.b64decode(found))
        assert list(found) == pytest.approx(toy.embedding_of(ids), abs=1e-7)
    num_tokens = sum(map(len, prompts))
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens, reply.model) == (num_tokens,) * 2 + (
        "org/toy",
    )
    assert all(request.embeds for request in engine.seen)
    assert engine.open == set()


def test_dimensions_are_the_beginning_made_to_have_length_1(server, talk, toy):
    async def work(http):
        return [
            (await http.openai.embeddings.create(model="org/toy", input="ab", dimensions=n)).data[0].embedding
            for n in (1, 2, 4)
        ]

    one, two, four = talk(server, work)
    whole = np.array(toy.embedding_of(ids_of("ab")))
    assert one == [1.0]
    assert two == pytest.approx((whole[:2] / np.linalg.norm(whole[:2])).tolist(), abs=1e-6)
    assert four == pytest.approx(whole.tolist(), abs=1e-7)


def test_numbers_say_each_float32():
    values = np.array([0.1, -1e-30, 3.4e38, 1.0, 1 / 3], "<f4")
    read = np.array(eval(numbers(values.tobytes())), "<f4")
    assert read.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", None),
        ({"input": ""}, "input", None),
        ({"input": []}, "input", None),
        ({"input": ["a", ""]}, "input[1]", None),
        ({"input": [[]]}, "input[0]", None),
        ({"input": ["a"] * 2049}, "input", None),
        ({"input": "x" * 513}, "input", "context_length_exceeded"),
        ({"input": ["x", "x" * 600]}, "input[1]", "context_length_exceeded"),
        ({"input": [[1] * 513, [1]]}, "input[0]", "context_length_exceeded"),
        ({"input": ["x" * 500] * 601}, "input", "too_many_tokens"),
        ({"input": [2**30]}, "input", None),
        ({"input": "untokenizable"}, "input", None),
        ({"input": "x", "dimensions": 5}, "dimensions", None),
        ({"input": "x", "dimensions": 0}, "dimensions", None),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format", None),
        ({"input": "x", "dimension": 3}, "dimension", "unknown_parameter"),
        ({"input": "x", "model": "other"}, "model", "model_not_found"),
    ],
    ids=str,
)
def test_refusals(fields, param, code, server, talk, engine):
    assert MAX_TOKENS == 300_000

    async def work(http):
        return await http.post(PATH, **fields)

    reply = talk(server, work)
    assert reply.status_code == (404 if code == "model_not_found" else 400), reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert engine.seen == []


def test_many_inputs_take_no_more_places_than_a_request_may(toy, talk):
    """Others are answered beside them, and a queue that is full later does not end what has begun."""
    engine = toy.ToyEngine(delay_s=0.001, max_running=4, max_waiting=0)
    server = create_server(engine, answers=AnswerOptions(max_choices=4))
    most = 0

    async def work(http):
        nonlocal most
        asking = asyncio.create_task(http.openai.embeddings.create(model="org/toy", input=["ab"] * 60))
        others = 0
        while not asking.done():
            most = max(most, len(engine.open))
            reply = await http.post("/v1/completions", prompt="x", max_tokens=1)
            others += reply.status_code == 200
            await asyncio.sleep(0.002)
        return await asking, others

    reply, others = talk(server, work)
    assert len(reply.data) == 60
    assert others > 0
    assert most <= 4


def test_a_full_queue_refuses_what_has_not_begun(toy, talk):
    """One place is enough for any number of inputs; without one it is as for completions."""
    engine = toy.ToyEngine(delay_s=0.01, max_running=1, max_waiting=0)
    server = create_server(engine)

    async def work(http):
        many = await http.openai.embeddings.create(model="org/toy", input=["a"] * 5)
        other = asyncio.create_task(http.post("/v1/completions", prompt="x", max_tokens=20))
        while not engine.open:
            await asyncio.sleep(0.001)
        refused = await http.post(PATH, input=["a"] * 5)
        await other
        return many, refused

    many, refused = talk(server, work)
    assert len(many.data) == 5
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"]


def test_a_client_that_leaves_is_computed_for_no_longer(toy, listening):
    engine = toy.ToyEngine(delay_s=0.05)

    async def main():
        async with listening(create_server(engine)) as url, httpx.AsyncClient(base_url=url) as client:
            body = {"model": "org/toy", "input": ["a"] * 200}
            asking = asyncio.create_task(client.post(PATH, json=body))
            while not engine.open:
                await asyncio.sleep(0.005)
            asking.cancel()
            async with asyncio.timeout(5):
                while engine.open:
                    await asyncio.sleep(0.005)
            num_seen = len(engine.seen)
            await asyncio.sleep(0.2)
            return num_seen, len(engine.seen)

    before, after = asyncio.run(main())
    assert before == after < 200


def test_a_broken_engine_is_told(server, talk, engine):
    engine.is_draining = True

    async def work(http):
        return await http.post(PATH, input="x")

    reply = talk(server, work)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_unavailable")


def test_tokens_are_counted(server, talk):
    async def work(http):
        await http.openai.embeddings.create(model="org/toy", input=["abc"] * 40)
        return (await http.plain.get("/metrics")).text

    page = talk(server, work)
    assert "wf_prompt_tokens_total 120.0" in page
    assert 'wf_http_requests_total{endpoint="/v1/embeddings",status="200"} 1.0' in page
