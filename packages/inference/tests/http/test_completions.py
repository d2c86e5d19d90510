"""Plain completions, models and health through the official client."""

from __future__ import annotations

import pytest

from wrinklefree_inference.http.completions import _Logprobs
from wrinklefree_inference.http.responses import CompletionLogprobs
from wrinklefree_inference.native.request import Delta, TokenLogprob


def test_one_prompt(server, talk, toy):
    async def work(http):
        return await http.openai.completions.create(model="org/toy", prompt="Hi")

    reply = talk(server, work)
    assert reply.object == "text_completion"
    assert reply.choices[0].text == toy.TEXT[:16]  # OpenAI's default length
    assert reply.choices[0].finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 16)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [(97, 98)]),
        (["ab", "c"], [(97, 98), (97, 98), (99,), (99,)]),
        ([97, 98], [(97, 98)]),
        ([[97, 98], [99]], [(97, 98), (97, 98), (99,), (99,)]),
    ],
)
def test_kinds_of_prompt(prompt, expected, server, talk, engine):
    n = 2 if len(expected) > 1 else 1

    async def work(http):
        return await http.openai.completions.create(model="org/toy", prompt=prompt, max_tokens=2, n=n)

    reply = talk(server, work)
    assert [request.prompt_ids for request in engine.seen] == expected
    assert [choice.index for choice in reply.choices] == list(range(len(expected)))
    assert reply.usage.prompt_tokens == sum(map(len, expected[::n]))
    assert len({request.id for request in engine.seen}) == len(expected)


def test_stream_equals_the_whole(server, talk):
    async def work(http):
        options = {"model": "org/toy", "prompt": ["a", "b"], "max_tokens": 60, "logprobs": 2, "seed": 3}
        whole = await http.openai.completions.create(**options)
        stream = await http.openai.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
        return whole, [chunk async for chunk in stream]

    whole, chunks = talk(server, work)
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [x for c in mine for x in getattr(c.logprobs, field)] == getattr(choice.logprobs, field)
        assert [c.finish_reason for c in mine if c.finish_reason] == ["length"]
    assert chunks[-1].usage == whole.usage


def test_logprobs(server, talk, toy):
    async def work(http):
        return await http.openai.completions.create(model="org/toy", prompt="a", max_tokens=56, logprobs=1)

    choice = talk(server, work).choices[0]
    found = choice.logprobs
    assert found.tokens == list(toy.TEXT + "T")
    assert found.token_logprobs == [toy.logprob_of(c) for c in found.tokens]
    assert [choice.text[offset] for offset in found.text_offset] == found.tokens
    assert found.top_logprobs[0] == {"T": toy.logprob_of("T")}


def test_offsets_of_characters_in_several_tokens():
    """`é😀a` in tokens of one, one, three, one and one byte."""
    utf8 = "é😀a".encode()
    pieces = [utf8[0:1], utf8[1:2], utf8[2:5], utf8[5:6], utf8[6:7]]
    tokens = [TokenLogprob(i, "�", piece, -1.0, ((9, "b", b"b", -0.5),)) for i, piece in enumerate(pieces)]
    whole = _Logprobs()
    lists = CompletionLogprobs(**whole.of(tokens))
    assert lists.text_offset == [0, 0, 1, 1, 2]
    assert lists.tokens == ["bytes:\\xc3", "bytes:\\xa9", "bytes:\\xf0\\x9f\\x98", "bytes:\\x80", "a"]
    assert lists.top_logprobs[4] == {"b": -0.5, "a": -1.0}  # with the drawn one
    assert whole.of([])["tokens"] == []


def test_an_echoed_prompt_that_ends_in_half_a_character():
    """Nothing is known of its first token, and the answer begins after the character's replacement."""
    logprobs = _Logprobs()
    prompt = logprobs.of_delta(Delta("a\ufffd", logprobs=(TokenLogprob(0, "\ufffd", b"a\xc3", None),)))
    answer = Delta("b", logprobs=(TokenLogprob(1, "b", b"b", -1.0),), completion_tokens=1)
    assert (prompt["token_logprobs"], prompt["top_logprobs"]) == ([None], [None])
    assert logprobs.of_delta(answer)["text_offset"] == [2]


def test_minus_infinity_is_a_number_in_json():
    logprobs = _Logprobs()
    lists = logprobs.of([TokenLogprob(0, "a", b"a", float("-inf"))])
    assert lists["token_logprobs"] == [-9999.0]


def test_models_and_health(server, talk, engine):
    async def work(http):
        listed = [m async for m in http.openai.models.list()]
        one = await http.openai.models.retrieve("org/toy")
        health = await http.plain.get("/health")
        engine.is_healthy = False
        broken = await http.plain.get("/health")
        return listed, one, health, broken

    listed, one, health, broken = talk(server, work)
    assert listed == [one]
    assert (one.id, one.created, one.model_extra["max_model_len"]) == ("org/toy", engine.created, 512)
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (broken.status_code, broken.json()) == (503, {"status": "failed"})
