"""Tools and JSON over HTTP: what is taken and refused, and how calls in an answer are told."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pydantic
import pytest

from wrinklefree_inference.tool_calls.forms import FORMS, HERMES, LLAMA, MISTRAL

USER = [{"role": "user", "content": "x"}]
CHAT = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
ASK: dict[str, Any] = {"model": "org/toy", "messages": USER, "tools": [WEATHER, TIME]}
CITY = '{"city": "Ber\\"}lin"}'


def told_whole(message):
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    return message.content, calls


def told_in_a_stream(chunks, index=0):
    content, calls = "", {}
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index != index:
                continue
            content += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                if call.id is not None:
                    assert call.type == "function"
                    calls[call.index] = [call.function.name, "", call.id]
                calls[call.index][1] += call.function.arguments or ""
    return content or None, [(name, arguments) for name, arguments, _ in calls.values()]


@pytest.mark.parametrize(
    ("form", "words"),
    [(form, "") for form in FORMS] + [(form, "Let me see.\n") for form in FORMS if not form.leads],
    ids=lambda value: value[:3] if isinstance(value, str) else value.name,
)
def test_calls_are_told_alike_whole_and_in_a_stream(form, words, server, talk, engine):
    engine.form = form
    engine.script = words + form.written("weather", CITY)
    expected = [("weather", CITY)]
    if form.between:
        engine.script = engine.script.removesuffix(form.closing) + f"{form.between}time{form.middle}{{}}"
        engine.script += form.closing
        expected.append(("time", "{}"))

    async def work(http):
        whole = await http.openai.chat.completions.create(**ASK)
        stream = await http.openai.chat.completions.create(**ASK, stream=True)
        return whole, [chunk async for chunk in stream]

    whole, chunks = talk(server, work)
    assert told_whole(whole.choices[0].message) == (words.strip() or None, expected)
    assert told_in_a_stream(chunks) == (words.strip() or None, expected)
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    ids = [call.id for call in whole.choices[0].message.tool_calls]
    assert len(set(ids)) == len(ids)
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids) or not form.short_ids


def test_text_without_a_call_is_content(server, talk, engine):
    engine.script = 'It may <tool_ be {"name": 1} fine.\n\n'

    async def work(http):
        whole = await http.openai.chat.completions.create(**ASK, n=2, seed=0)
        stream = await http.openai.chat.completions.create(**ASK, stream=True)
        raw = await http.post(CHAT, messages=USER, tools=[TIME])
        return whole, [chunk async for chunk in stream], raw.json()

    whole, chunks, raw = talk(server, work)
    assert told_whole(whole.choices[0].message) == (engine.script, [])
    assert told_in_a_stream(chunks) == (engine.script, [])
    assert whole.choices[0].finish_reason == "stop"
    assert "tool_calls" not in raw["choices"][0]["message"]


def test_a_call_that_is_cut_short_is_told_as_far_as_it_came(server, talk, engine):
    engine.script = HERMES.written("weather", CITY)
    before = len(HERMES.opening + "weather" + HERMES.middle)

    async def work(http):
        in_arguments = await http.openai.chat.completions.create(**ASK, max_tokens=before + 9)
        in_name = await http.openai.chat.completions.create(**ASK, max_tokens=len(HERMES.opening) + 3)
        at_stop = await http.openai.chat.completions.create(**ASK, stop="Ber")
        return [reply.choices[0] for reply in (in_arguments, in_name, at_stop)]

    in_arguments, in_name, at_stop = talk(server, work)
    assert told_whole(in_arguments.message) == (None, [("weather", CITY[:9])])
    assert in_arguments.finish_reason == "length"
    assert told_whole(in_name.message) == (HERMES.opening + "wea", [])
    assert told_whole(at_stop.message) == (None, [("weather", '{"city": "')])
    assert at_stop.finish_reason == "stop"  # who makes calls waits for `tool_calls`


def test_logprobs_of_calls_are_told_once(server, talk, engine):
    engine.script = HERMES.written("time", "{}")

    async def work(http):
        options = ASK | {"logprobs": True}
        whole = await http.openai.chat.completions.create(**options)
        stream = await http.openai.chat.completions.create(**options, stream=True)
        return whole, [chunk async for chunk in stream]

    whole, chunks = talk(server, work)
    tokens = whole.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == engine.script
    assert [t for c in chunks for x in c.choices if x.logprobs for t in x.logprobs.content] == tokens


def _allowed(mode, *names):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}}


@pytest.mark.parametrize(
    ("fields", "offered", "must_call"),
    [
        ({}, ["weather", "time"], False),
        ({"tool_choice": "auto"}, ["weather", "time"], False),
        ({"tool_choice": "required"}, ["weather", "time"], True),
        ({"tool_choice": {"type": "function", "function": {"name": "time"}}}, ["time"], True),
        ({"tool_choice": "none"}, [], False),
        (_allowed("auto", "time"), ["time"], False),
        (_allowed("required", "time", "weather"), ["weather", "time"], True),
    ],
    ids=["default", "auto", "required", "named", "none", "allowed", "one-of-the-allowed"],
)
def test_the_choice_of_tools_is_the_grammar_s(fields, offered, must_call, server, talk, engine):
    async def work(http):
        return await http.post(CHAT, messages=USER, tools=[WEATHER, TIME], max_tokens=1, **fields)

    assert talk(server, work).status_code == 200
    if not offered:
        assert engine.compiled == []
        assert engine.detokenize(engine.seen[0].prompt_ids) == "user:x\n"
        return
    (grammar,) = engine.compiled
    assert [name for name in ("weather", "time") if f'"{name}' in grammar] == offered
    assert ("TEXT" in grammar) is not must_call
    prompt = engine.detokenize(engine.seen[0].prompt_ids)
    assert prompt == "tool:weather\ntool:time\nuser:x\n"
    assert engine.seen[0].constraint is not None


def test_earlier_calls_and_results_reach_the_template(server, talk, engine, monkeypatch):
    seen = []
    monkeypatch.setattr(
        engine, "tokenize_chat", lambda messages, variables=None, tools=(): seen.append(messages) or [1]
    )
    function = {"name": "weather", "arguments": CITY}
    call = {"id": "call_1", "type": "function", "function": function}
    empty = {"id": "call_2", "type": "function", "index": 1, "function": {"name": "time", "arguments": ""}}
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call, empty], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
    ]

    async def work(http):
        return await http.post(CHAT, messages=messages, tools=[WEATHER], max_tokens=1)

    assert talk(server, work).status_code == 200
    (turns,) = seen
    called = turns[1]["tool_calls"]
    assert [c["function"]["arguments"] for c in called] == [json.loads(CITY), {}]
    assert turns[1]["content"] == ""
    assert turns[2] == {"role": "tool", "content": "rain", "tool_call_id": "call_1"}
    assert turns[3]["content"] == "noon"


class City(pydantic.BaseModel):
    name: str
    people: int


def test_the_client_s_helpers(server, talk, engine):
    """`parse`, `stream` and `pydantic_function_tool` of the official client."""

    async def work(http):
        engine.script = '{"name": "Berlin", "people": 3}'
        parsed = await http.openai.chat.completions.parse(
            model="org/toy", messages=USER, response_format=City
        )
        engine.script = HERMES.written("City", engine.script)
        tools = [openai.pydantic_function_tool(City)]
        called = await http.openai.chat.completions.parse(model="org/toy", messages=USER, tools=tools)
        async with http.openai.chat.completions.stream(model="org/toy", messages=USER, tools=tools) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()
        return parsed, called, kinds, final

    parsed, called, kinds, final = talk(server, work)
    berlin = City(name="Berlin", people=3)
    assert parsed.choices[0].message.parsed == berlin
    assert called.choices[0].message.tool_calls[0].function.parsed_arguments == berlin
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments == berlin
    assert "tool_calls.function.arguments.delta" in kinds


def test_json_is_the_grammar_s(server, talk, engine):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    formats = [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}, **schema}}},
        {"type": "json_schema", "json_schema": {"name": "x", "description": "d"}},
    ]

    async def work(http):
        return [
            await http.post(CHAT, messages=USER, max_tokens=1, response_format=wanted) for wanted in formats
        ]

    assert [reply.status_code for reply in talk(server, work)] == [200] * len(formats)
    assert [request.constraint is not None for request in engine.seen] == [False, True, True, True, True]
    assert '"additionalProperties": false' in engine.compiled[1]
    assert '"a"' in engine.compiled[1]


def _tool(**fields):
    return {"tools": [{"type": "function", "function": {"name": "f"} | fields}]}


def _schema(schema, strict=False):
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}
    return {"response_format": format_}


def _called(**function):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"} | function}
    return {"messages": [*USER, {"role": "assistant", "tool_calls": [call]}]}


def _nested(depth):
    return {"type": "array", "items": _nested(depth - 1)} if depth else {"type": "integer"}


PARAMETERS, SCHEMA = "tools[0].function.parameters", "response_format.json_schema.schema"
ARGUMENTS = "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "function"),
        (_tool(name="a b"), "tools[0].function.name", "pattern"),
        (_tool(name="f" * 65), "tools[0].function.name", "pattern"),
        (_tool(parameters={"type": "string"}), PARAMETERS, 'must be "object"'),
        (_tool(parameters=_nested(60)), PARAMETERS, "deep"),
        (_tool(parameters={"type": "object", "x": "y" * 70_000}), PARAMETERS, "characters, at most 65536"),
        (_tool(parameters={"type": "objct"}), PARAMETERS, "must be"),
        (_tool(parameters={"properties": {"a": {"type": "strin"}}}), PARAMETERS, "Invalid type: strin"),
        (_tool(strict=True, parameters={"properties": {"a": {"not": {}}}}), PARAMETERS, "not"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "two functions have the name 'weather'"),
        ({"tools": [TIME] * 129}, "tools", "at most 128"),
        ({"tools": [TIME], "tool_choice": "any"}, "tool_choice", "required"),
        ({"tools": [TIME], "tool_choice": {"type": "auto"}}, "tool_choice", "must be"),
        ({"tools": [TIME], "tool_choice": {"type": "function"}}, "tool_choice.function", "name the function"),
        (
            {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            "f is none of the tools",
        ),
        ({"tool_choice": "required"}, "tool_choice", "only with tools"),
        (_allowed("auto", "f"), "tool_choice", "only with tools"),
        ({"tools": [TIME]} | _allowed("auto", "time", "f"), "tool_choice", "f is none of the tools"),
        ({"tools": [TIME]} | _allowed("auto"), "tool_choice.allowed_tools.tools", "at least 1"),
        ({"tools": [TIME]} | _allowed("none", "time"), "tool_choice.allowed_tools.mode", "'required'"),
        (
            {"tools": [TIME], "tool_choice": {"type": "allowed_tools"}},
            "tool_choice.allowed_tools",
            "needed with type: allowed_tools",
        ),
        (
            {
                "tools": [TIME],
                "tool_choice": _allowed("auto", "time")["tool_choice"] | {"function": {"name": "f"}},
            },
            "tool_choice.function",
            "only with type: function",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"function_call": "auto"}, "function_call", "use tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needed"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
            "only with",
        ),
        (_schema({"not": {}}, strict=True), SCHEMA, "Unimplemented keys"),
        (_schema({"$ref": "file:///etc/passwd"}), SCHEMA, "Resource"),
        (_schema({"type": "string", "enum": [1]}), SCHEMA, "nsatisfiable"),
        (_schema({"type": "integer", "minimum": 10**20}), SCHEMA, "minimum is 100000000000000000000: "),
        (_schema({"type": "integer", "maximum": -(10**20)}), SCHEMA, "maximum is -100000000000000000000: "),
        (
            _tool(parameters={"properties": {"a": {"multipleOf": 2**60}}}),
            PARAMETERS,
            "properties.a.multipleOf is 1152921504606846976: ",
        ),
        (_schema({"pattern": "^(a|a)*(b|b)*{1000}$"}), SCHEMA, "pattern has *{1000} in"),
        (_called(arguments="call it"), ARGUMENTS, "text of JSON"),
        (_called(arguments="{call it"), ARGUMENTS, "text of JSON"),
        (_called(arguments="[1]"), ARGUMENTS, "an object of JSON"),
        (_called(arguments='"{}"'), ARGUMENTS, "an object of JSON"),
        (_called(arguments="[" * 100_000), ARGUMENTS, "text of JSON"),
        (_called(name="a b"), "messages[1].tool_calls[0].function.name", "pattern"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "needed"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content", "needed"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]},
            "messages[0].tool_call_id",
            "only in",
        ),
        (
            {
                "messages": [
                    {"role": "user", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]}
                ]
            },
            "messages[0].tool_calls",
            "only the assistant",
        ),
        ({"messages": [*USER, {"role": "function", "content": "x"}]}, "messages[1].role", "tool"),
    ],
)
def test_refusals(fields, param, words, server, talk, engine):
    async def work(http):
        return await http.post(CHAT, **({"messages": USER} | fields))

    reply = talk(server, work)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert engine.seen == []


def _call(id_):
    return {"id": id_, "type": "function", "function": {"name": "time", "arguments": "{}"}}


def _result(id_):
    return {"role": "tool", "tool_call_id": id_, "content": "noon"}


@pytest.mark.parametrize(
    ("turns", "param"),
    [
        ([_result("a")], "messages[1].tool_call_id"),
        ([{"role": "assistant", "tool_calls": [_call("a")]}, _result("b")], "messages[2].tool_call_id"),
        ([_result("a"), {"role": "assistant", "tool_calls": [_call("a")]}], "messages[1].tool_call_id"),
        ([{"role": "assistant", "tool_calls": [_call("a")]}], "messages[1].tool_calls[0].id"),
        (
            [{"role": "assistant", "tool_calls": [_call("a"), _call("b")]}, _result("a"), *USER],
            "messages[1].tool_calls[1].id",
        ),
        (
            [{"role": "assistant", "tool_calls": [_call("a"), _call("a")]}, _result("a")],
            "messages[1].tool_calls[1].id",
        ),
        (  # ids that come again in each turn, as some clients make them
            [
                {"role": "assistant", "tool_calls": [_call("a")]},
                _result("a"),
                {"role": "assistant", "tool_calls": [_call("a")]},
            ],
            "messages[3].tool_calls[0].id",
        ),
        (
            [
                {"role": "assistant", "tool_calls": [_call("a"), _call("b")]},
                *[_result(id_) for id_ in ("b", "a", "a")],
                {"role": "assistant", "tool_calls": [_call("a")]},
                *USER,
                _result("a"),
            ],
            None,
        ),
    ],
)
def test_results_are_those_of_calls(turns, param, server, talk, engine):
    async def work(http):
        return await http.post(CHAT, messages=[*USER, *turns], tools=[TIME], max_tokens=1)

    reply = talk(server, work)
    if param is None:
        assert reply.status_code == 200, reply.text
        return
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
    assert re.search("no call before it|has no result|and no result", error["message"])
    assert engine.seen == []


INT64 = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}


@pytest.mark.parametrize(
    ("bounds", "ignored"),
    [
        (INT64, ["maximum", "minimum"]),
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**64}, ["exclusiveMaximum"]),
        ({"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1e9}, ["minimum"]),
        ({"type": "integer", "maximum": 2**53 - 1}, []),
        ({"type": ["integer", "null"], "maximum": 2**63}, ["maximum"]),
    ],
)
def test_bounds_that_say_nothing_are_left_out_and_named(bounds, ignored, server, talk, engine):
    schema = {"type": "object", "properties": {"maximum": bounds, "b": {"default": bounds}}}
    kept = {key: value for key, value in bounds.items() if key not in ignored}

    async def work(http):
        return [
            await http.post(CHAT, messages=USER, max_tokens=1, **_schema(schema, strict=True)),
            await http.post(CHAT, messages=USER, max_tokens=1, **_tool(parameters=schema)),
            await http.post("/api/chat", messages=USER, format=schema, stream=False),
        ]

    replies = talk(server, work)
    for reply, name in zip(replies, ("schema", "parameters", "format"), strict=True):
        assert reply.status_code == 200, reply.text
        assert reply.headers.get("x-wf-ignored", "") == ",".join(f"{name}.{key}" for key in ignored)
    for grammar in engine.compiled:
        assert f'"properties": {{"maximum": {json.dumps(kept)}, "b": ' in grammar
        assert f'"default": {json.dumps(bounds)}' in grammar


def test_half_a_surrogate_pair_in_a_schema_is_told(server, talk, engine):
    body = json.dumps({"model": "org/toy", "messages": USER} | _schema({"const": "\ud800"}))

    async def work(http):
        return await http.plain.post(CHAT, content=body, headers={"Content-Type": "application/json"})

    reply = talk(server, work)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == SCHEMA
    assert "half a surrogate pair, \\ud800, which is not text" in reply.json()["error"]["message"]
    assert engine.seen == []


def test_what_cannot_be_told_apart_is_refused(server, talk, engine):
    engine.form = LLAMA

    async def work(http):
        options = {"messages": USER, "tools": [TIME], "response_format": {"type": "json_object"}}
        refused = await http.post(CHAT, **options)
        engine.script = LLAMA.written("time", "{}")
        return refused, await http.post(CHAT, **options, tool_choice="required")

    refused, taken = talk(server, work)
    assert refused.json()["error"]["param"] == "response_format"
    assert taken.json()["choices"][0]["finish_reason"] == "tool_calls"


def test_a_hostile_schema_does_not_hold_up_others(server, talk):
    """It takes the second that the trial lets it have; a request beside it does not wait for that."""
    import asyncio
    import time

    async def work(http):
        hostile = http.post(CHAT, messages=USER, **_schema({"type": "integer", "multipleOf": 99_999_989}))
        task = asyncio.create_task(hostile)
        await asyncio.sleep(0.05)
        start_s = time.monotonic()
        plain = await http.post(CHAT, messages=USER, max_tokens=1)
        plain_s = time.monotonic() - start_s
        return plain, plain_s, await task, time.monotonic() - start_s

    plain, plain_s, refused, hostile_s = talk(server, work)
    assert (plain.status_code, refused.status_code) == (200, 400)
    assert "beyond the limits of the server" in refused.json()["error"]["message"]
    assert plain_s < hostile_s / 2


def test_mistral_s_ids_are_short(server, talk, engine):
    engine.form, engine.script = MISTRAL, MISTRAL.written("time", "{}")

    async def work(http):
        return await http.openai.chat.completions.create(**ASK)

    assert len(talk(server, work).choices[0].message.tool_calls[0].id) == 9
