"""Responses through the official client and its helpers."""

from __future__ import annotations

from typing import Any

import openai
import pytest

ASK: dict[str, Any] = {"model": "org/toy", "input": "Hi"}
PATH = "/v1/responses"


def test_whole_answer(server, talk, toy, engine):
    async def work(http):
        return await http.openai.responses.create(
            **ASK,
            instructions="Be brief.",
            max_output_tokens=20,
            temperature=0.5,
            top_p=0.9,
            metadata={"a": "b"},
            store=True,
            extra_body={"seed": 3, "top_k": 4},
        )

    reply = talk(server, work)
    assert reply.output_text == (toy.TEXT * 2)[3:23]
    assert (reply.object, reply.status, reply.model) == ("response", "incomplete", "org/toy")
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.to_dict()["store"] is False  # nothing is kept, whatever was asked for
    assert (reply.temperature, reply.top_p, reply.metadata) == (0.5, 0.9, {"a": "b"})
    assert (reply.instructions, reply.max_output_tokens) == ("Be brief.", 20)
    prompt = len("system:Be brief.\nuser:Hi\n")
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (prompt, 20, prompt + 20)
    (item,) = reply.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "incomplete")
    sampling = engine.seen[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.top_k) == (0.5, 0.9, 3, 4)
    assert engine.detokenize(engine.seen[0].prompt_ids) == "system:Be brief.\nuser:Hi\n"


def test_the_output_can_be_sent_back(server, talk, toy, engine):
    """A conversation without storage, as OpenAI's guide has it."""

    async def work(http):
        history: list[Any] = [{"role": "user", "content": "end"}]
        first = await http.openai.responses.create(model="org/toy", input=history)
        history += [item.model_dump(exclude_none=True) for item in first.output]
        parts = [{"type": "input_text", "text": text} for text in ("a", "b")]
        history.append({"role": "user", "content": parts})
        await http.openai.responses.create(model="org/toy", input=history, max_output_tokens=1)
        return first

    first = talk(server, work)
    assert (first.status, first.incomplete_details) == ("completed", None)
    text = engine.detokenize(engine.seen[1].prompt_ids)
    assert text == f"user:end\nassistant:{toy.TEXT[:5]}\nuser:a\nb\n"


def test_a_stream_has_openai_s_events(server, talk, toy):
    async def work(http):
        stream = await http.openai.responses.create(**ASK, max_output_tokens=3, stream=True)
        return [event async for event in stream]

    events = talk(server, work)
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * 3,
        *("output_text.done", "content_part.done", "output_item.done", "incomplete"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.status == "in_progress"
    assert "".join(e.delta for e in events if e.type.endswith("delta")) == toy.TEXT[:3]
    assert events[7].text == events[8].part.text == events[9].item.content[0].text == toy.TEXT[:3]
    ended = events[-1].response
    assert (ended.id, ended.output_text) == (events[0].response.id, toy.TEXT[:3])
    assert (ended.usage.input_tokens, ended.usage.output_tokens) == (len("user:Hi\n"), 3)
    assert {event.item_id for event in events[3:9] if hasattr(event, "item_id")} == {ended.output[0].id}


def test_the_stream_helper_puts_it_together(server, talk, toy):
    async def work(http):
        ask = {"model": "org/toy", "input": [{"role": "user", "content": "end"}]}
        async with http.openai.responses.stream(**ask) as stream:
            snapshots = [
                event.snapshot async for event in stream if event.type == "response.output_text.delta"
            ]
            final = await stream.get_final_response()
        whole = await http.openai.responses.create(**ask)
        return snapshots, final, whole

    snapshots, final, whole = talk(server, work)
    assert snapshots[-1] == final.output_text == whole.output_text == toy.TEXT[:5]
    assert final.status == "completed"
    assert final.usage == whole.usage


def test_the_wire_names_each_event(server, talk):
    async def work(http):
        return await http.post(PATH, input="Hi", max_output_tokens=1, stream=True)

    reply = talk(server, work)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.text.startswith(
        'event: response.created\ndata: {"type":"response.created","sequence_number":0'
    )
    assert "[DONE]" not in reply.text


async def _read(stream: Any, seen: list[Any]) -> None:
    async for event in stream:
        seen.append(event)


def test_an_answer_that_breaks_off_is_an_error(server, talk):
    async def work(http):
        stream = await http.openai.responses.create(model="org/toy", input="crash", stream=True)
        seen: list[Any] = []
        with pytest.raises(openai.APIError, match="the decoder failed"):
            await _read(stream, seen)
        return seen

    seen = talk(server, work)
    assert seen[-1].type == "response.failed"
    assert (seen[-1].response.status, seen[-1].response.error.code) == ("failed", "engine_unavailable")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", None),
        ({"input": []}, "input", None),
        ({"input": [{"role": "user"}]}, "input[0].content", None),
        ({"input": [{"type": "function_call", "name": "f"}]}, None, None),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported"),
        ({"conversation": "conv_1"}, "conversation", "unsupported"),
        ({"background": True}, "background", None),
        ({"truncation": "auto"}, "truncation", None),
        ({"include": ["reasoning.encrypted_content"]}, "include", "unsupported"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "unsupported"),
        ({"max_tokens": 5}, "max_tokens", "unsupported"),
        ({"max_output_token": 5}, "max_output_token", "unknown_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"input": "x" * 600}, "input", "context_length_exceeded"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format", None),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported"),
        ({"temperature": 3}, "temperature", None),
        ({"top_p": 0}, "top_p", None),
        ({"stop": "x"}, "stop", "unsupported"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", None),
        ({"model": "gpt-4o"}, "model", "model_not_found"),
    ],
    ids=str,
)
def test_refusals(fields, param, code, server, talk, engine):
    async def work(http):
        return await http.post(PATH, **{"input": "x"} | fields)

    reply = talk(server, work)
    assert reply.status_code == (404 if code == "model_not_found" else 400), reply.text
    error = reply.json()["error"]
    if param is not None:
        assert (error["param"], error["code"]) == (param, code)
    assert engine.seen == []


def test_what_stored_responses_need_says_what_to_do(server, talk):
    async def work(http):
        return await http.post(PATH, input="x", previous_response_id="resp_1")

    assert "send the items of the conversation in input" in talk(server, work).json()["error"]["message"]


def test_harmless_fields_are_taken(server, talk):
    async def work(http):
        return await http.openai.responses.create(
            **ASK,
            max_output_tokens=1,
            tools=[],
            tool_choice="auto",
            text={"format": {"type": "text"}},
            parallel_tool_calls=False,
            truncation="disabled",
            user="u",
            service_tier="auto",
            include=[],
        )

    assert talk(server, work).status == "incomplete"
