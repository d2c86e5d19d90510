"""Chat completions through the official client."""

from __future__ import annotations

from typing import Any

import pytest

MESSAGES = [{"role": "user", "content": "Hi"}]
ASK: dict[str, Any] = {"model": "org/toy", "messages": MESSAGES}


def test_whole_answer(server, talk, toy, engine):
    async def work(http):
        return await http.openai.chat.completions.create(**ASK, max_tokens=20)

    reply = talk(server, work)
    assert reply.object == "chat.completion"
    assert reply.model == "org/toy"
    assert reply.choices[0].message.content == toy.TEXT[:20]
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].logprobs is None
    prompt = len("user:Hi\n")
    usage = (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens)
    assert usage == (prompt, 20, prompt + 20)
    assert engine.open == set()
    assert engine.cancelled == []


def test_stream_equals_the_whole(server, talk):
    async def work(http):
        options = ASK | {"max_tokens": 30, "n": 2, "seed": 5, "logprobs": True, "top_logprobs": 3}
        whole = await http.openai.chat.completions.create(**options)
        stream = await http.openai.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
        return whole, [chunk async for chunk in stream]

    whole, chunks = talk(server, work)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + ["length"]
        streamed = [token for c in mine if c.logprobs for token in c.logprobs.content]
        assert streamed == choice.logprobs.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_no_usage_unless_asked_for(server, talk):
    async def work(http):
        reply = await http.post("/v1/chat/completions", messages=MESSAGES, max_tokens=3, stream=True)
        return reply

    reply = talk(server, work)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "usage" not in reply.text
    assert reply.text.endswith("data: [DONE]\n\n")


def test_choices_have_seeds_of_their_own(server, talk, toy, engine):
    async def work(http):
        return await http.openai.chat.completions.create(**ASK, n=3, seed=7, max_tokens=4)

    reply = talk(server, work)
    assert [c.message.content for c in reply.choices] == [toy.TEXT[s : s + 4] for s in (7, 8, 9)]
    assert [r.sampling.seed for r in engine.seen] == [7, 8, 9]
    assert reply.usage.prompt_tokens == len("user:Hi\n")  # once, not three times
    assert reply.usage.completion_tokens == 12


def test_logprobs(server, talk, toy):
    async def work(http):
        return await http.openai.chat.completions.create(**ASK, max_tokens=49, logprobs=True, top_logprobs=2)

    tokens = talk(server, work).choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == toy.TEXT[:49]
    assert bytes(b for token in tokens for b in token.bytes).decode() == toy.TEXT[:49]
    assert [token.logprob for token in tokens] == [toy.logprob_of(c) for c in toy.TEXT[:49]]
    assert [[t.token for t in token.top_logprobs] for token in tokens[:2]] == [["T", "a"], ["h", "a"]]


@pytest.mark.parametrize(("stop", "text"), [("brown", "The quick "), (["zzz", "ick"], "The qu")])
@pytest.mark.parametrize("stream", [False, True])
def test_stop(stop, text, stream, server, talk):
    async def work(http):
        reply = await http.openai.chat.completions.create(**ASK, stop=stop, max_tokens=40, stream=stream)
        if not stream:
            return reply.choices[0].message.content, reply.choices[0].finish_reason
        chunks = [chunk async for chunk in reply]
        return "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason

    assert talk(server, work) == (text, "stop")


def test_the_model_ends_by_itself(server, talk, toy):
    async def work(http):
        ask = ASK | {"messages": [{"role": "user", "content": "end"}]}
        ended = await http.openai.chat.completions.create(**ask, max_tokens=40)
        forced = await http.openai.chat.completions.create(
            **ask, max_tokens=40, extra_body={"ignore_eos": True}
        )
        return ended, forced

    ended, forced = talk(server, work)
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == (toy.TEXT[:5], "stop")
    assert ended.usage.completion_tokens == 6  # with the end-of-text token
    assert forced.choices[0].message.content == toy.TEXT[:40]


def test_sampling_arrives_at_the_engine(server, talk, engine):
    async def work(http):
        await http.openai.chat.completions.create(
            **ASK,
            temperature=0.5,
            top_p=0.9,
            max_completion_tokens=5,
            seed=3,
            stop="x",
            extra_body={"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.2},
        )
        await http.openai.chat.completions.create(**ASK)

    talk(server, work)
    given, default = (request.sampling for request in engine.seen)
    assert (given.temperature, given.top_p, given.top_k, given.min_p) == (0.5, 0.9, 4, 0.1)
    assert (given.repetition_penalty, given.seed, given.stop, given.max_tokens) == (1.2, 3, ("x",), 5)
    assert (default.temperature, default.top_p, default.seed, default.logprobs) == (1.0, 1.0, None, None)
    assert default.max_tokens == engine.context_tokens - len("user:Hi\n")  # all that fits


def test_messages_become_the_template_s(server, talk, engine):
    async def work(http):
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "Ann", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
            {"role": "user", "content": "d"},
        ]
        await http.openai.chat.completions.create(**ASK | {"messages": messages}, max_tokens=1)

    talk(server, work)
    text = engine.detokenize(engine.seen[0].prompt_ids)
    assert text == "system:Be brief.\nuser:a\nb\nassistant:c\nuser:d\n"


def test_harmless_fields_are_taken(server, talk):
    async def work(http):
        return await http.openai.chat.completions.create(
            **ASK,
            max_tokens=1,
            user="u",
            metadata={"a": "b"},
            store=True,
            service_tier="auto",
            parallel_tool_calls=False,
            presence_penalty=0,
            frequency_penalty=0.0,
            response_format={"type": "text"},
            tools=[],
            tool_choice="none",
        )

    assert talk(server, work).choices


def test_cached_tokens_are_told(server, talk):
    async def work(http):
        ask = ASK | {"messages": [{"role": "user", "content": "x" * 100}]}
        return await http.openai.chat.completions.create(**ask, max_tokens=1, n=2)

    assert talk(server, work).usage.prompt_tokens_details.cached_tokens == 96


def test_silence_is_filled(toy, talk, monkeypatch):
    """A client waits for its first token for longer than the keep-alive."""
    from wrinklefree_inference.http.app import create_server
    from wrinklefree_inference.http.generation import Generation

    monkeypatch.setattr(Generation.arrivals, "__defaults__", (0.02,))
    server = create_server(toy.ToyEngine(delay_s=0.1))

    async def work(http):
        return await http.post("/v1/chat/completions", messages=MESSAGES, max_tokens=1, stream=True)

    assert talk(server, work).text.startswith(": still working\n\n")
