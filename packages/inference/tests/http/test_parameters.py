"""Fields of sampling and what clients of other servers send: what becomes of them, on the toy engine."""

from __future__ import annotations

import logging

import pytest

from wf_formats.errors import RequestError
from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.options import AnswerOptions, HttpOptions

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "x"}]


def posted(talk, server, path, **fields):
    async def work(http):
        prompt = {"messages": USER} if path == CHAT else {"prompt": "x"}
        return await http.post(path, **{"max_tokens": 3, **prompt, **fields})

    return talk(server, work)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"presence_penalty": 1.5, "frequency_penalty": -2},
            {"presence_penalty": 1.5, "frequency_penalty": -2},
        ),
        ({"logit_bias": {"50256": -100, "0": 2.5}}, {"logit_bias": ((50256, -100), (0, 2.5))}),
        ({"logit_bias": {}}, {"logit_bias": ()}),
        ({"logit_bias": []}, {"logit_bias": ()}),
        ({"logit_bias": None, "presence_penalty": None}, {"logit_bias": (), "presence_penalty": 0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 5}, {"top_k": 5}),
    ],
)
def test_fields_of_sampling_reach_the_engine(path, fields, expected, server, engine, talk):
    assert posted(talk, server, path, **fields).status_code == 200
    sampling = engine.seen[-1].sampling
    assert {name: getattr(sampling, name) for name in expected} == expected


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(("asked", "given"), [(-1, None), (10**6, None), (2**31 - 1, None), (7, 7)])
def test_more_tokens_than_fit_are_those_that_fit(path, asked, given, server, engine, talk):
    reply = posted(talk, server, path, max_tokens=asked)
    request = engine.seen[-1]
    left = engine.context_tokens - len(request.prompt_ids)
    assert request.sampling.max_tokens == (given or left) == reply.json()["usage"]["completion_tokens"]


def test_a_prompt_alone(server, engine, talk):
    reply = posted(talk, server, TEXT, max_tokens=0, echo=True, logprobs=1)
    assert reply.json()["choices"][0]["finish_reason"] == "length"
    assert reply.json()["usage"]["completion_tokens"] == 0
    full = posted(talk, server, TEXT, prompt="x" * 512, max_tokens=0, echo=True)
    assert full.status_code == 200
    assert posted(talk, server, TEXT, prompt="x" * 513, max_tokens=0, echo=True).status_code == 400


def mean_logprob(choice):
    scores = choice["logprobs"]["token_logprobs"]
    return sum(scores) / len(scores)


def test_best_of_gives_the_most_probable_for_each_token_of_each_prompt(toy, talk):
    server = create_server(toy.ToyEngine(max_running=16))
    every = posted(talk, server, TEXT, prompt=["x", "y"], n=6, seed=3, max_tokens=4, logprobs=0).json()
    best = posted(talk, server, TEXT, prompt=["x", "y"], n=2, best_of=6, seed=3, max_tokens=4).json()
    assert all(choice["logprobs"] is None for choice in best["choices"])
    assert [choice["index"] for choice in best["choices"]] == [0, 1, 2, 3]
    for prompt in range(2):
        answers = every["choices"][6 * prompt : 6 * prompt + 6]
        assert len({mean_logprob(choice) for choice in answers}) > 2
        expected = sorted(answers, key=mean_logprob, reverse=True)[:2]
        found = best["choices"][2 * prompt : 2 * prompt + 2]
        assert [choice["text"] for choice in found] == [choice["text"] for choice in expected]
    assert best["usage"] == every["usage"]  # all that were drawn
    with_logprobs = posted(talk, server, TEXT, best_of=6, seed=3, max_tokens=4, logprobs=2).json()["choices"]
    assert len(with_logprobs) == 1
    assert (
        with_logprobs[0]["text"]
        == best["choices"][0]["text"]
        == "".join(with_logprobs[0]["logprobs"]["tokens"])
    )


def test_best_of_ranks_an_empty_answer_last(server, engine, talk):
    """A stop string that comes at once leaves no token."""
    fields = {"seed": 0, "max_tokens": 4, "best_of": 3, "n": 3, "stop": ["T"]}
    texts = [choice["text"] for choice in posted(talk, server, TEXT, **fields).json()["choices"]]
    assert texts[0] == ""  # n of them: as they were drawn
    best = posted(talk, server, TEXT, **fields | {"n": 2})
    assert "" not in [choice["text"] for choice in best.json()["choices"]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"reasoning_effort": None}, {}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "minimal", "enable_thinking": False}),
        (
            {"chat_template_kwargs": {"a": [1, {}], "enable_thinking": True}},
            {"a": [1, {}], "enable_thinking": True},
        ),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            {"reasoning_effort": "none", "enable_thinking": True},
        ),
    ],
)
def test_variables_reach_the_chat_template(fields, expected, server, engine, talk):
    assert posted(talk, server, CHAT, **fields).status_code == 200
    assert engine.variables == expected


@pytest.mark.parametrize(
    "name", ["messages", "tools", "bos_token", "add_generation_prompt", "raise_exception"]
)
def test_variables_stand_in_nobodys_place(name, server, talk):
    error = posted(talk, server, CHAT, chat_template_kwargs={"a": 1, name: "x"}).json()["error"]
    assert error["param"] == "chat_template_kwargs"
    assert f"{name} is the server's to set" in error["message"]


FOREIGN = {
    "num_ctx": 4096,
    "keep_alive": "5m",
    "options": {"num_predict": 5, "secret words": "of a prompt"},
    "cache_prompt": True,
    "id_slot": -1,
    "repeat_penalty": 1.1,
    "top_a": 0.5,
    "n_predict": 5,
    "min_tokens": 0,
    "models": ["other"],
    "prompt_id": "private words",
    "max_new_tokens": 5,
    "guided_json": {},
    "transforms": [],
}


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
def test_unknown_fields_are_ignored_and_told(path, stream, server, talk, caplog):
    caplog.set_level(logging.INFO)
    reply = posted(talk, server, path, stream=stream, **FOREIGN)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-wf-ignored"] == ",".join(FOREIGN)
    lines = [record.fields for record in caplog.records if record.message == "request"]
    assert [line["ignored"] for line in lines] == [",".join(FOREIGN)]
    assert "private" not in str([record.__dict__ for record in caplog.records])
    assert "secret" not in str([record.__dict__ for record in caplog.records])
    assert "x-wf-ignored" not in posted(talk, server, path).headers


def test_unknown_fields_of_nested_objects(server, talk):
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}], "id": 5},
        {"role": "assistant", "content": "y", "reasoning_content": "thought", "thinking": None},
        {"role": "user", "content": "z", "id": 6, "images": []},
    ]
    options = {"include_usage": True, "continuous_usage_stats": True}
    reply = posted(
        talk,
        server,
        CHAT,
        messages=turns,
        stream=True,
        stream_options=options,
        response_format={"type": "text", "schema": {}},
    )
    assert reply.status_code == 200, reply.text
    assert set(reply.headers["x-wf-ignored"].split(",")) == {
        "messages[].content[].cache_control",
        "messages[].id",
        "messages[].reasoning_content",
        "messages[].thinking",
        "messages[].images",
        "stream_options.continuous_usage_stats",
        "response_format.schema",
    }


@pytest.mark.parametrize("name", ["x\r\nset-cookie: a=b", "é", "", "a,b", "\ud800", "x" * 70, "\x1b[2J"])
def test_names_are_never_more_than_plain_characters_in_header_and_log(name, server, talk, caplog):
    caplog.set_level(logging.INFO)

    async def work(http):
        import json

        body = json.dumps({"model": "org/toy", "prompt": "x", "max_tokens": 2, name: 1})
        headers = {"Content-Type": "application/json"}
        return await http.plain.post(TEXT, content=body.encode(), headers=headers)

    reply = talk(server, work)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-wf-ignored"] == "?"
    assert "set-cookie" not in reply.headers


def test_many_unknown_fields_are_no_clients_request(server, talk):
    assert posted(talk, server, CHAT, **{f"field_number_{i}": 1 for i in range(32)}).status_code == 200
    refused = posted(talk, server, CHAT, **{f"field_number_{i}": 1 for i in range(33)}).json()["error"]
    assert "more than 32 parameters that this server does not know" in refused["message"]
    assert refused["code"] == "unknown_parameter"


@pytest.mark.parametrize(
    ("path", "name", "near"),
    [
        (CHAT, "temprature", "temperature"),
        (CHAT, "maxTokens", "max_tokens"),
        (CHAT, "max_token", "max_tokens"),
        (CHAT, "topP", "top_p"),
        (CHAT, "top-p", "top_p"),
        (CHAT, "Temperature", "temperature"),
        (CHAT, "frequencyPenalty", "frequency_penalty"),
        (CHAT, "stops", "stop"),
        (CHAT, "logitbias", "logit_bias"),
        (TEXT, "log_probs", "logprobs"),
        (TEXT, "repetition_penalities", "repetition_penalty"),
    ],
)
def test_slips_are_told(path, name, near, server, talk):
    fields = {"max_tokens": None} if near == "max_tokens" else {}
    reply = posted(talk, server, path, **fields, **{name: 1})
    if near == "max_tokens":  # it is there, be it null
        assert reply.status_code == 200
        reply = talk(server, lambda http: http.post(path, messages=USER, **{name: 1}))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["message"] == f"{name}: there is no such parameter; did you mean {near}?"
    assert (error["param"], error["code"]) == (name, "unknown_parameter")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_strict_server_refuses_what_it_does_not_know(path, engine, talk):
    server = create_server(engine, answers=AnswerOptions(is_strict=True))
    assert posted(talk, server, path).status_code == 200
    error = posted(talk, server, path, num_ctx=5).json()["error"]
    assert (error["message"], error["param"]) == ("num_ctx: there is no such parameter", "num_ctx")
    nested = [{"role": "user", "content": "x", "reasoning_content": "y"}]
    error = posted(talk, server, CHAT, messages=nested).json()["error"]
    assert error["param"] == "messages[0].reasoning_content"


def test_the_page_of_a_strict_server_says_so(engine, server, talk):
    async def work(http):
        return (await http.plain.get("/openapi.json")).json()["components"]["schemas"]

    strict = talk(create_server(engine, answers=AnswerOptions(is_strict=True)), work)
    for name in (
        "ChatRequest",
        "CompletionRequest",
        "ChatMessage",
        "TextPart",
        "StreamOptions",
        "ResponseFormat",
    ):
        assert strict[name]["additionalProperties"] is False
    assert "additionalProperties" not in strict["ChatCompletion"]
    assert not any(schema.get("additionalProperties") is False for schema in talk(server, work).values())


def test_other_names_of_the_model(engine, talk):
    names = ["gpt-4o-mini", "local/model", "gpt-4o-mini"]
    server = create_server(engine, answers=AnswerOptions(aliases=names))

    async def work(http):
        listed = (await http.plain.get("/v1/models")).json()["data"]
        one = await http.plain.get("/v1/models/local/model")
        answers = [
            await http.post(CHAT, messages=USER, max_tokens=2, model=name) for name in ("org/toy", *names)
        ]
        chunks = await http.post(TEXT, prompt="x", model="local/model", stream=True, max_tokens=2)
        return listed, one.json(), answers, chunks, await http.post(TEXT, prompt="x", model="gpt-9")

    listed, one, answers, chunks, unknown = talk(server, work)
    assert [model["id"] for model in listed] == ["org/toy", "gpt-4o-mini", "local/model"]
    assert one == listed[2]
    assert [reply.json()["model"] for reply in answers] == ["org/toy", *names]
    assert '"model":"local/model"' in chunks.text
    assert unknown.status_code == 404
    assert "'org/toy' or 'gpt-4o-mini' or 'local/model' is" in unknown.json()["error"]["message"]


@pytest.mark.parametrize("alias", ["", " ", "a\nb"])
def test_an_alias_is_a_name(alias):
    with pytest.raises(RequestError, match="--alias must be a name"):
        AnswerOptions(aliases=[alias])


ROUTES = ["/v1/models", "/v1/models/org/toy", CHAT, TEXT, "/health", "/metrics", "/openapi.json"]


def test_every_route_answers_a_browsers_question_first(engine, talk):
    """What the JavaScript client of OpenAI sends from a page."""
    server = create_server(engine, HttpOptions(allow_origins=["https://page.example"]))
    wanted = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"

    async def work(http):
        headers = {
            "Origin": "https://page.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": wanted,
        }
        asked = [await http.plain.options(route, headers=headers) for route in ROUTES]
        body = {"model": "org/toy", "prompt": "x", "max_tokens": 1, "num_ctx": 1}
        return asked, await http.plain.post(TEXT, json=body, headers={"Origin": "https://page.example"})

    asked, answer = talk(server, work)
    for reply in asked:
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "https://page.example"
        assert "POST" in reply.headers["access-control-allow-methods"]
        assert set(wanted.split(",")) <= set(reply.headers["access-control-allow-headers"].split(","))
    assert "x-wf-ignored" in answer.headers["access-control-expose-headers"].lower()
