"""Responses through the official client and its helpers."""

from __future__ import annotations

from typing import Any

import openai
import pydantic
import pytest

from wrinklefree_inference.tool_calls.forms import HERMES

ASK: dict[str, Any] = {"model": "org/toy", "input": "Hi"}
PATH = "/v1/responses"
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
TIME: dict[str, Any] = {"type": "function", "name": "time"}
CALL = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
CHOICE = {"type": "function", "name": "weather"}
BAD_SCHEMA = {"strict": True, "parameters": {"properties": {"a": {"not": {}}}}}


def _format(schema):
    return {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}}


class City(pydantic.BaseModel):
    name: str
    people: int


def test_calls_are_items_whole_and_in_a_stream(server, talk, engine):
    engine.script = "Let me see.\n" + HERMES.written("weather", '{"a": 1}').removesuffix(HERMES.closing)
    engine.script += f"{HERMES.between}time{HERMES.middle}{{}}{HERMES.closing}"
    ask = ASK | {"tools": [WEATHER, TIME], "tool_choice": "auto"}

    async def work(http):
        whole = await http.openai.responses.create(**ask)
        stream = await http.openai.responses.create(**ask, stream=True)
        return whole, [event async for event in stream]

    whole, events = talk(server, work)
    ended = events[-1].response
    for reply in (whole, ended):
        message, *calls = reply.output
        assert message.content[0].text == "Let me see."
        assert [(c.type, c.status, c.name, c.arguments) for c in calls] == [
            ("function_call", "completed", "weather", '{"a": 1}'),
            ("function_call", "completed", "time", "{}"),
        ]
        assert len({c.call_id for c in calls} | {c.id for c in calls}) == 4
        assert (reply.status, reply.tools[0].name, reply.tools[0].strict) == ("completed", "weather", False)
    kinds = [event.type.removeprefix("response.") for event in events]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
    assert [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind] == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *(*call, "output_item.done", *call, "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for index, item in enumerate(ended.output[1:], 1):
        mine = [event for event in events if getattr(event, "output_index", None) == index]
        assert "".join(e.delta for e in mine if e.type.endswith("arguments.delta")) == item.arguments
        assert {e.item_id for e in mine if hasattr(e, "item_id")} == {item.id}
        assert (mine[0].item.arguments, mine[-1].item) == ("", item)


def test_the_client_s_helpers(server, talk, engine):
    """`parse` and `stream` of the official client, a model as format and as a tool, and a second turn."""
    text = '{"name": "Berlin", "people": 3}'

    async def work(http):
        responses = http.openai.responses
        engine.script = text
        parsed = await responses.parse(**ASK, text_format=City)
        async with responses.stream(**ASK, text_format=City) as stream:
            streamed = await stream.get_final_response()
        engine.script = HERMES.written("City", text)
        ask = {"model": "org/toy", "tools": [openai.pydantic_function_tool(City)]}
        called = await responses.parse(**ask, input="Hi")
        async with responses.stream(**ask, input="Hi") as stream:
            final = await stream.get_final_response()
        result = {"type": "function_call_output", "call_id": called.output[0].call_id, "output": "done"}
        history: list[Any] = [{"role": "user", "content": "Hi"}, *called.output, result]
        after = await responses.parse(**ask, input=history, tool_choice="none", max_output_tokens=1)
        return parsed, streamed, called, final, after

    parsed, streamed, called, final, after = talk(server, work)
    berlin = City(name="Berlin", people=3)
    assert parsed.output_parsed == streamed.output_parsed == berlin
    assert parsed.to_dict()["text"]["format"]["schema"]["required"] == ["name", "people"]
    assert called.output[0].parsed_arguments == final.output[0].parsed_arguments == berlin
    assert after.tool_choice == "none"
    assert all(request.constraint is not None for request in engine.seen[:4])
    prompt = engine.detokenize(engine.seen[4].prompt_ids)
    assert prompt == "user:Hi\nassistant:\ntool:done\n"
    assert engine.seen[4].constraint is None


def test_calls_at_once_are_one_turn(server, talk, engine, monkeypatch):
    seen = []
    monkeypatch.setattr(
        engine, "tokenize_chat", lambda messages, variables=None, tools=(): seen.append(messages) or [1]
    )
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "See."}]}
    parts = [{"type": "input_text", "text": text} for text in ("rain", "wind")]
    output = {"type": "function_call_output", "call_id": "c", "output": parts}
    other = {"type": "function_call_output", "call_id": "d", "output": "sun"}
    items = [
        {"role": "user", "content": "x"},
        said,
        CALL,
        CALL | {"call_id": "d"},
        output,
        CALL,
        other,
        output,
    ]

    async def work(http):
        return await http.post(PATH, input=items, tools=[WEATHER], tool_choice=CHOICE, max_output_tokens=1)

    reply = talk(server, work)
    assert (reply.status_code, reply.json()["tool_choice"]) == (200, CHOICE)
    (turns,) = seen
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant", "tool", "tool"]
    assert turns[1]["content"] == "See."
    assert [call["id"] for call in turns[1]["tool_calls"]] == ["c", "d"]
    assert turns[2] == {"role": "tool", "content": "rain\nwind", "tool_call_id": "c"}


ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}


def test_allowed_tools(server, talk, engine):
    async def work(http):
        return await http.post(
            PATH, input="x", tools=[WEATHER, TIME], tool_choice=ALLOWED, max_output_tokens=1
        )

    reply = talk(server, work)
    assert (reply.status_code, reply.json()["tool_choice"]) == (200, ALLOWED)
    (grammar,) = engine.compiled
    assert '"time' in grammar
    assert '"weather' not in grammar
    assert "TEXT" not in grammar
    assert engine.detokenize(engine.seen[0].prompt_ids) == "tool:weather\ntool:time\nuser:x\n"


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([CALL], "input[0].call_id"),
        ([{"type": "function_call_output", "call_id": "c", "output": "x"}, CALL], "input[0].call_id"),
        ([CALL, {"type": "function_call_output", "call_id": "d", "output": "x"}], "input[1].call_id"),
    ],
)
def test_outputs_are_those_of_calls(items, param, server, talk, engine):
    async def work(http):
        return await http.post(PATH, input=items, tools=[WEATHER])

    error = talk(server, work).json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert engine.seen == []


def test_a_call_that_is_cut_short_is_incomplete(server, talk, engine):
    engine.script = HERMES.written("weather", '{"city": "Berlin"}')
    length = engine.script.index("Ber")

    async def work(http):
        return await http.openai.responses.create(**ASK, tools=[WEATHER], max_output_tokens=length)

    reply = talk(server, work)
    (call,) = reply.output
    assert (reply.status, call.status, call.arguments) == ("incomplete", "incomplete", '{"city": "')
    assert engine.seen[0].constraint is not None


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
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", None),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "invalid_value"),
        (_format({"not": {}}), "text.format.schema", "unsupported_schema"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0]", None),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", None),
        ({"input": [CALL | {"arguments": "["}]}, "input[0].arguments", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", None),
        ({"tools": [WEATHER | {"parameters": {"type": "string"}}]}, "tools[0].parameters", None),
        ({"tools": [WEATHER | BAD_SCHEMA]}, "tools[0].parameters", "unsupported_schema"),
        ({"tools": [WEATHER, WEATHER]}, "tools", None),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice", None),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name", "invalid_value"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice", None),
        ({"tools": [WEATHER], "tool_choice": CHOICE | {"name": "f"}}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [WEATHER], "tool_choice": ALLOWED}, "tool_choice", "invalid_value"),
        ({"tools": [TIME], "tool_choice": ALLOWED | {"mode": "none"}}, "tool_choice.mode", None),
        ({"tools": [TIME], "tool_choice": CHOICE | {"mode": "auto"}}, "tool_choice.mode", "invalid_value"),
        ({"tools": [TIME], "tool_choice": ALLOWED | {"name": "f"}}, "tool_choice.name", "invalid_value"),
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
