"""What is refused: OpenAI's form, the right status, and the field that is to blame."""

from __future__ import annotations

import json

import openai
import pytest

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.options import AnswerOptions, HttpOptions

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "x"}]


def check(reply, status, param=None, code=None):
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    error = reply.json()["error"]
    assert set(reply.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        (CHAT, {"messages": USER, "temprature": 1}, "temprature", "unknown_parameter"),
        (CHAT, {"messages": USER, "presence_penalty": 2.5}, "presence_penalty", None),
        (CHAT, {"messages": USER, "frequency_penalty": True}, "frequency_penalty", None),
        (CHAT, {"messages": USER, "logit_bias": {"five": 1}}, "logit_bias", None),
        (CHAT, {"messages": USER, "logit_bias": [1]}, "logit_bias", None),
        (
            CHAT,
            {"messages": USER, "logit_bias": {"999999999": 1}},
            "logit_bias",
            None,
        ),  # the engine's refusal
        (CHAT, {"messages": USER, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", None),
        (CHAT, {"messages": USER, "reasoning_effort": "maximal"}, "reasoning_effort", None),
        (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs", "invalid_value"),
        (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs", None),
        (
            CHAT,
            {"messages": USER, "max_tokens": 1, "max_completion_tokens": 1},
            "max_tokens",
            "invalid_value",
        ),
        (CHAT, {"messages": USER, "max_tokens": 0}, "max_tokens", "invalid_value"),
        (CHAT, {"messages": USER, "max_tokens": "5"}, "max_tokens", None),
        (CHAT, {"messages": USER, "temperature": 2.1}, "temperature", None),
        (CHAT, {"messages": USER, "top_p": 0}, "top_p", None),
        (CHAT, {"messages": USER, "min_p": -0.1}, "min_p", None),
        (CHAT, {"messages": USER, "seed": 2**63}, "seed", None),
        (CHAT, {"messages": USER, "stop": ["a"] * 5}, "stop", None),
        (CHAT, {"messages": USER, "stop": ""}, "stop", None),
        (CHAT, {"messages": USER, "stream_options": {}}, "stream_options", "invalid_value"),
        (CHAT, {"messages": USER, "n": 17}, "n", None),
        (CHAT, {"messages": USER, "metadata": {str(i): "" for i in range(17)}}, "metadata", None),
        (CHAT, {}, "messages", None),
        (CHAT, {"messages": []}, "messages", None),
        (CHAT, {"messages": [1]}, "messages[0]", None),
        (CHAT, {"messages": [{"role": "tools", "content": "x"}]}, "messages[0].role", None),
        (CHAT, {"messages": [*USER, {"role": "user"}]}, "messages[1].content", "invalid_value"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            None,
        ),
        (CHAT, {"messages": [*USER, {"role": "system", "content": "x"}]}, "messages", None),
        (CHAT, {"messages": [{"role": "user", "content": "untokenizable"}]}, "messages", None),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 600}]}, "messages", "context_length_exceeded"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "x" * 200_000}]},
            "messages",
            "context_length_exceeded",
        ),
        (TEXT, {"prompt": "x", "echo": "yes"}, "echo", None),
        (TEXT, {"prompt": "x", "suffix": "y"}, "suffix", "unsupported"),
        (TEXT, {"prompt": "x", "best_of": 17}, "best_of", None),
        (TEXT, {"prompt": ["x"] * 9, "best_of": 2}, "best_of", None),
        (TEXT, {"prompt": "x", "best_of": 2, "n": 3}, "best_of", "invalid_value"),
        (TEXT, {"prompt": "x", "best_of": 2, "stream": True}, "best_of", "invalid_value"),
        (TEXT, {"prompt": "x", "best_of": 0}, "best_of", None),
        (TEXT, {"prompt": "x", "max_tokens": 0}, "max_tokens", "invalid_value"),
        (TEXT, {"prompt": "x", "max_tokens": -2}, "max_tokens", None),
        (TEXT, {"prompt": "x", "logprobs": 6}, "logprobs", None),
        (TEXT, {"prompt": ""}, "prompt", None),
        (TEXT, {"prompt": []}, "prompt", None),
        (TEXT, {"prompt": {}}, "prompt", None),
        (TEXT, {"prompt": ["x", 1]}, "prompt[1]", None),
        (TEXT, {"prompt": [True]}, "prompt[0]", None),
        (TEXT, {"prompt": [-1]}, "prompt[0]", None),
        (TEXT, {"prompt": [2**31 - 1]}, "prompt", None),  # the engine's own refusal
        (TEXT, {"prompt": [1, "x"]}, "prompt[1]", None),
        (TEXT, {"prompt": "x", "best_of": True}, "best_of", None),
        (TEXT, {"prompt": "x", "best_of": 1.0}, "best_of", None),
        (TEXT, {"prompt": "x", "echo": 0}, "echo", None),
        (TEXT, {"prompt": "x", "echo": 0.0}, "echo", None),
        (TEXT, {"prompt": ["x"] * 17}, "prompt", None),
        (TEXT, {"prompt": ["x"] * 9, "n": 2}, "n", None),
    ],
)
def test_bad_fields(path, fields, param, code, server, talk, engine):
    async def work(http):
        return await http.post(path, **fields)

    check(talk(server, work), 400, param, code)
    assert engine.open == set()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *(
            ("repetition_penalty", value, r"must be in [0.01, 10] (1 is off), got " + str(value))
            for value in (0, 1e-46, 1e-44, 1e-320, -1.0, 10.5, 1e39, 1e308)
        ),
        *(
            ("temperature", value, f"must be in [0, 2] (0 is greedy), got {value}")
            for value in (-1e-46, 2.1, 1e39)
        ),
        ("top_p", 0, "must be in (0, 1], got 0"),
        ("top_p", 1.5, "must be in (0, 1], got 1.5"),
        ("min_p", -1e-46, "must be in [0, 1] (0 is off), got -1e-46"),
        ("top_k", -2, "must be in [-1, 2147483647] (0 and -1 are off), got -2"),
        ("top_k", 2**31, "must be in [-1, 2147483647] (0 and -1 are off), got 2147483648"),
        ("presence_penalty", 2.1, "must be in [-2, 2] (0 is off), got 2.1"),
        ("frequency_penalty", -1e39, "must be in [-2, 2] (0 is off), got -1e+39"),
        ("logit_bias", {"5": 1, "x7": 1}, "'x7' is not a token id"),
        ("logit_bias", {str(i): 1 for i in range(1025)}, "logit_bias: at most 1024 tokens, got 1025"),
        ("logit_bias", {"05": 1}, "'05' is not a token id"),
        ("logit_bias", {"5": 100.5}, "the value of token 5 must be a number in [-100, 100], got 100.5"),
        ("logit_bias", {"5": True}, "the value of token 5 must be a number in [-100, 100], got True"),
        ("logit_bias", {"5": "1"}, "the value of token 5 must be a number in [-100, 100], got '1'"),
        ("logit_bias", {"7" * 9: 1}, "token id 777777777 is not in the vocabulary"),
        ("stream_options", {"include_usag": True}, "include_usag: there is no such parameter; did you mean"),
        ("seed", 2**63, "must be in [-9223372036854775808, 9223372036854775807], got 9223372036854775808"),
        ("max_tokens", 0, "or -1 for all that fits, got 0"),
        ("max_tokens", -2, "must be in [-1, 2147483647] (-1 is all that fits), got -2"),
        ("n", 200, "n: 200 x 1 answers asked for, at most 16 at a time"),
        ("stop", list("abcde"), "must have at most 4 item(s), got 5"),
        ("stop", ["a"] * 1000, "must have at most 4 item(s), got 1000"),
        ("stop", ["a", ""], "must have at least 1 character(s), got 0"),
        ("stop", "x" * 300, "must have at most 256 character(s), got 300"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_the_message_names_value_and_range(path, field, value, message, server, talk, engine):
    async def work(http):
        prompt = {"messages": USER} if path == CHAT else {"prompt": "x"}
        return await http.post(path, **prompt, **{field: value})

    error = talk(server, work).json()["error"]
    assert error["param"].startswith(field)
    assert message in error["message"]
    assert engine.seen == []


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (CHAT, {"messages": []}, "messages: must have at least 1 item(s), got 0"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": []}]},
            "content: must have at least 1 item(s)",
        ),
        (
            CHAT,
            {"messages": USER, "modalities": ["text"] * 2},
            "modalities: must have at most 1 item(s)",
        ),
        (CHAT, {"messages": USER, "max_completion_tokens": 0}, "tokens: must be at least 1, or -1 for all"),
        (
            CHAT,
            {"messages": USER, "logprobs": True, "top_logprobs": 21},
            "top_logprobs: must be in [0, 20], got 21",
        ),
        (TEXT, {"prompt": "x", "logprobs": 6}, "logprobs: must be in [0, 5], got 6"),
        (TEXT, {"prompt": "x", "logprobs": -1}, "logprobs: must be in [0, 5], got -1"),
        (TEXT, {"prompt": []}, "prompt: must have at least 1 item(s), got 0"),
        (TEXT, {"prompt": [True]}, "token ids (integers) or a list of such lists, but this is true"),
        (TEXT, {"prompt": [5, 1.0]}, "prompt[1]: a prompt is a text, a list of texts, a list of token ids"),
        (TEXT, {"prompt": [[5], [1.0]]}, "(integers) or a list of such lists, but this is 1.0"),
        (TEXT, {"prompt": {"a": 1}}, "prompt: a prompt is a text"),
        (TEXT, {"prompt": "x", "n": 129}, "n: 129 x 1 answers asked for, at most 16 at a time"),
        (CHAT, {"messages": USER, "n": 2**70}, "x 1 answers asked for, at most 16 at a time"),
        (TEXT, {"prompt": [[5], []]}, "prompt[1]: must have at least 1 item(s), got 0"),
        (TEXT, {"prompt": [-1]}, "prompt[0]: Input should be greater than or equal to 0, got -1"),
        (TEXT, {"prompt": [[2**31]]}, "prompt[0][0]: Input should be less than 2147483648, got 2147483648"),
    ],
)
def test_lists_say_their_bound_and_length(path, fields, message, server, talk):
    async def work(http):
        return await http.post(path, **fields)

    assert message in talk(server, work).json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", None),
        (b"[]", None),
        (b"null", None),
        (
            b'{"model": "org/toy", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
            "invalid_json",
        ),
        (b'{"model": "org/toy", "messages": [], "metadata": {"a": -Infinity}}', "invalid_json"),
        (b'{"model": "org/toy", "model": "org/toy", "messages": []}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "invalid_json"),
        (b"{" + b'"a":{' * 50_000, "invalid_json"),
        (b'{"max_tokens": 1e400, "model": "x", "messages": []}', None),
        (b'{"n": ' + b"9" * 4000 + b', "model": "x", "messages": []}', None),
        (b'{"model": "org/toy", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
        (b'{"\\ud800": 1}', None),
        (b'{"model": "org/toy", "messages": "\\ud800"}', None),
        (b'{"model": "org/toy", "messages": [{"role": "\\ud800", "content": "a"}]}', None),
        (b'{"model": "org/toy", "messages": [{"role": "user", "content": "a"}], "stop": "\\ud800"}', None),
    ],
    ids=range(19),
)
def test_bad_json(body, code, server, talk):
    async def work(http):
        return await http.plain.post(CHAT, content=body, headers={"Content-Type": "application/json"})

    reply = talk(server, work)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["code"] == code


@pytest.mark.parametrize("field", ["max_tokens", "seed", "top_k", "n"])
@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "9" * 100_000])
def test_a_number_too_long_is_its_fields_matter(field, number, server, talk):
    async def work(http):
        body = (
            f'{{"{field}": {number}, "model": "org/toy", "messages": [{{"role": "user", "content": "a"}}]}}'
        )
        return await http.plain.post(CHAT, content=body, headers={"Content-Type": "application/json"})

    error = talk(server, work).json()["error"]
    assert (error["param"], error["code"]) == (field, None)
    assert "999" in error["message"]


def test_a_key_twice_is_found_at_once_and_named(server, talk):
    names = [f'"key{i}": 1' for i in range(60_000)]

    async def work(http):
        body = "{" + ", ".join([*names, names[-1]]) + "}"
        return await http.plain.post(CHAT, content=body, headers={"Content-Type": "application/json"})

    check(reply := talk(server, work), 400, None, "invalid_json")
    assert "'key59999' stands twice in one object" in reply.json()["error"]["message"]


def test_a_million_wrong_items_are_one_error(server, talk):
    async def work(http):
        many = [1] * 1_000_000
        bodies = [{"messages": many}, {"messages": USER, "stop": many}, {f"f{i}": 1 for i in range(200_000)}]
        return [await http.post(CHAT, **body) for body in bodies]

    for reply in talk(server, work):
        assert reply.status_code == 400
        assert len(reply.content) < 1000


def test_unknown_model_path_and_method(server, talk):
    async def work(http):
        other = await http.post(CHAT, messages=USER, model="gpt-9")
        return (
            other,
            await http.plain.get("/v1/models/gpt-9"),
            await http.plain.get("/v1/nothing"),
            await http.plain.get(CHAT),
        )

    other, model, nothing, method = talk(server, work)
    check(other, 404, "model", "model_not_found")
    check(model, 404, "model", "model_not_found")
    check(nothing, 404, None, "not_found")
    check(method, 405, None, "method_not_allowed")
    assert method.headers["allow"] == "POST"


def test_the_official_client_sees_its_own_exceptions(server, talk):
    async def work(http):
        with pytest.raises(openai.NotFoundError) as missing:
            await http.openai.completions.create(model="gpt-9", prompt="x")
        with pytest.raises(openai.BadRequestError) as bad:
            await http.openai.completions.create(model="org/toy", prompt="x", best_of=2, n=3)
        return missing.value, bad.value

    missing, bad = talk(server, work)
    assert missing.code == "model_not_found"
    assert bad.param == "best_of"
    assert missing.request_id.startswith("req_")


def test_limits_of_tokens_and_choices(engine, talk):
    server = create_server(engine, answers=AnswerOptions(max_output_tokens=10, max_choices=2))

    async def work(http):
        return (
            await http.post(CHAT, messages=USER, n=3),
            await http.post(TEXT, prompt="x", best_of=3),
            await http.post(CHAT, messages=USER),
            await http.post(TEXT, prompt="x"),
            await http.post(TEXT, prompt="x", max_tokens=11),
            await http.post(CHAT, messages=USER, max_completion_tokens=-1),
            await http.post(CHAT, messages=USER, max_tokens=2**31 - 1),
        )

    choices, best, *capped = talk(server, work)
    check(choices, 400, "n")
    check(best, 400, "best_of")
    for reply in capped:
        assert reply.json()["usage"]["completion_tokens"] == 10
        assert reply.json()["choices"][0]["finish_reason"] == "length"


def test_a_full_queue(toy, talk):
    engine = toy.ToyEngine(max_running=1, max_waiting=1)
    server = create_server(engine)

    async def work(http):
        return await http.post(TEXT, prompt=["a", "b", "c"])

    reply = talk(server, work)
    check(reply, 429, None, "queue_full")
    assert reply.headers["retry-after"] == "2"
    assert len(engine.cancelled) == 2  # all or none
    assert engine.open == set()


def test_too_many_open_requests(toy, talk):
    import asyncio

    server = create_server(toy.ToyEngine(delay_s=0.05), HttpOptions(max_inflight=1))

    async def work(http):
        first = asyncio.create_task(http.post(TEXT, prompt="a", max_tokens=4))
        await asyncio.sleep(0.05)
        return await http.post(TEXT, prompt="b"), await http.plain.get("/health"), await first

    refused, health, first = talk(server, work)
    check(refused, 429, None, "too_many_requests")
    assert refused.headers["retry-after"] == "1"
    assert (health.status_code, first.status_code) == (200, 200)


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_breaks(stream, server, talk, engine):
    async def work(http):
        return await http.post(TEXT, prompt="crash", stream=stream)

    reply = talk(server, work)
    if not stream:
        check(reply, 503, None, "engine_unavailable")
        return
    assert reply.status_code == 200
    *_, last = [line for line in reply.text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in reply.text
    assert engine.open == set()


def test_the_official_client_notices_a_broken_stream(server, talk):
    async def work(http):
        stream = await http.openai.completions.create(model="org/toy", prompt="crash", stream=True)
        with pytest.raises(openai.APIError, match="the decoder failed"):
            async for _ in stream:
                pass

    talk(server, work)


def test_a_defect_is_a_500_without_words_of_it(server, talk, caplog):
    async def work(http):
        return await http.post(TEXT, prompt="defect private words")

    reply = talk(server, work)
    check(reply, 500, None, "internal_error")
    record = next(r for r in caplog.records if r.message == "unexpected error")
    assert record.fields["error"] == "KeyError"
    assert record.fields["request_id"] == reply.headers["x-request-id"]
    assert any("toy_engine.py" in place for place in record.fields["traceback"])
    assert "private" not in caplog.text + str([r.__dict__ for r in caplog.records])
