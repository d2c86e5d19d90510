"""A call that `max_tokens` has cut comes back with the conversation, in the shapes of the official client."""

from __future__ import annotations

import json

import pytest

from wf_formats.errors import RequestError
from wrinklefree_inference.tool_calls.forms import HERMES

ASK = {"model": "org/toy"}
USER = {"role": "user", "content": "x"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOLD = {"role": "tool", "content": "its arguments were no JSON"}


@pytest.fixture
def turns(engine, monkeypatch):
    """What the template gets, of each request."""
    seen = []
    render = engine.tokenize_chat

    def noting(messages, variables=None, tools=()):
        seen.append(messages)
        return render(messages, variables, tools)

    monkeypatch.setattr(engine, "tokenize_chat", noting)
    return seen


def script(engine):
    """Says a call, and how many characters of it come before the middle of its arguments."""
    engine.script = HERMES.written("weather", '{"city": "Berlin"}')
    return engine.script.index("rlin")


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_chat_goes_on_after_a_call_that_was_cut(is_stream, server, talk, engine, turns):
    length = script(engine)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]

    async def work(http):
        create = http.openai.chat.completions.create
        ask = {**ASK, "messages": [USER], "tools": tools, "max_tokens": length}
        if is_stream:
            async with http.openai.chat.completions.stream(**ask) as stream:
                async for event in stream:
                    if event.type == "chunk" and event.chunk.choices[0].finish_reason == "length":
                        message = event.snapshot.choices[0].message
                        break
        else:
            message = (await create(**ask)).choices[0].message
        call = message.tool_calls[0]
        again = [USER, message, TOLD | {"tool_call_id": call.id}]
        return call, await create(**ASK, messages=again, tools=tools, max_tokens=3)

    call, answer = talk(server, work)
    assert call.function.arguments == '{"city": "Be'
    assert answer.usage.completion_tokens == 3
    given = turns[1][1]["tool_calls"][0]
    assert given["id"] == call.id
    assert given["function"] == {"name": "weather", "arguments": '{"city": "Be'}


def test_a_response_that_was_cut_goes_on(server, talk, engine, turns):
    length = script(engine)
    tools = [{"type": "function", "name": "weather", "parameters": PARAMETERS}]

    async def work(http):
        create = http.openai.responses.create
        (item,) = (await create(**ASK, input="x", tools=tools, max_output_tokens=length)).output
        told = {"type": "function_call_output", "call_id": item.call_id, "output": TOLD["content"]}
        return await create(**ASK, input=[USER, item, told], tools=tools, max_output_tokens=3)

    assert talk(server, work).usage.output_tokens == 3
    assert turns[1][1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Be'


def test_a_template_that_takes_objects_alone_refuses_it_by_its_id(server, talk, engine, monkeypatch):
    reason = "the arguments of the call 'call_7' (weather) are no whole object of JSON"

    def refusing(*_):
        raise RequestError(reason)

    monkeypatch.setattr(engine, "tokenize_chat", refusing)
    call = {"id": "call_7", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Be'}}
    messages = [USER, {"role": "assistant", "tool_calls": [call]}, TOLD | {"tool_call_id": "call_7"}]

    async def work(http):
        return await http.post("/v1/chat/completions", messages=messages, max_tokens=1)

    reply = talk(server, work)
    assert reply.status_code == 400
    error = json.loads(reply.content)["error"]
    assert (error["param"], reason in error["message"]) == ("messages", True)
