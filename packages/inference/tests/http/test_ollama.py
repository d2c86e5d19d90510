"""Ollama's paths by plain HTTP; the Ollama client itself asks them in `test_ollama_client.py`."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.ollama import _amount
from wrinklefree_inference.tool_calls.forms import HERMES

CALL = {"function": {"name": "f", "arguments": {}}}
BAD = {"function": {"name": "f", "arguments": "{}"}}
USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("weather", "time")]
COUNTS = ("total_duration", "prompt_eval_duration", "eval_duration")


@pytest.fixture
def ask(server, talk):
    """`ask(path, **fields)`: the reply, and its lines as objects."""

    def run(path, *, to=server, **fields):
        async def work(http):
            return await http.plain.post(path, json={"model": "org/toy"} | fields)

        reply = talk(to, work)
        return reply, [json.loads(line) for line in reply.text.splitlines()]

    return run


@pytest.fixture
def get(server, talk):
    def run(path, to=server, **options):
        async def work(http):
            return await http.plain.get(path)

        return talk(to, work, **options)

    return run


def check_counts(last, prompt_tokens, answer_tokens):
    assert (last["done"], last["load_duration"]) == (True, 0)
    assert (last["prompt_eval_count"], last["eval_count"]) == (prompt_tokens, answer_tokens)
    assert all(last[name] > 0 for name in COUNTS)
    assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"]


@pytest.mark.parametrize("model", ["org/toy", "org/toy:latest"])
def test_a_chat_comes_in_lines(model, ask, toy):
    reply, lines = ask("/api/chat", model=model, messages=USER, options={"num_predict": 12})
    assert reply.headers["content-type"] == "application/x-ndjson"
    *pieces, last = lines
    assert "".join(line["message"]["content"] for line in pieces) == toy.TEXT[:12]
    assert all(line["message"]["role"] == "assistant" and line["done"] is False for line in pieces)
    assert {line["model"] for line in lines} == {model}
    assert datetime.fromisoformat(last["created_at"]).utcoffset().seconds == 0
    assert (last["message"]["content"], last["done_reason"]) == ("", "length")
    check_counts(last, len("user:Hi\n"), 12)


def test_a_whole_chat(ask, toy):
    end = [{"role": "system", "content": "x"}, {"role": "user", "content": "end"}]
    reply, (answer,) = ask("/api/chat", messages=end, stream=False)
    assert reply.headers["content-type"] == "application/json"
    assert answer["message"] == {"role": "assistant", "content": toy.TEXT[:5]}
    assert answer["done_reason"] == "stop"
    check_counts(answer, len("system:x\nuser:end\n"), 6)


def test_generate_whole_streamed_and_raw(ask, toy, engine):
    options = {"num_predict": 7, "seed": 4}
    _, (whole,) = ask("/api/generate", prompt="Hi", system="Be.", stream=False, options=options)
    _, lines = ask("/api/generate", prompt="Hi", system="Be.", options=options)
    assert whole["response"] == "".join(line["response"] for line in lines) == toy.TEXT[4:11]
    check_counts(whole, len("system:Be.\nuser:Hi\n"), 7)
    check_counts(lines[-1], len("system:Be.\nuser:Hi\n"), 7)
    empty = {"template": "", "suffix": "", "format": ""}  # as Ollama's Go client sends them
    _, (raw,) = ask("/api/generate", prompt="Hi", raw=True, stream=False, options=options, **empty)
    check_counts(raw, 2, 7)
    assert engine.detokenize(engine.seen[-1].prompt_ids) == "Hi"


def test_options_arrive_at_the_engine(ask, engine):
    options = {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "seed": 3, "repeat_penalty": 1.2}
    hardware = {"num_ctx": 4096, "num_thread": 8, "num_gpu": 1, "repeat_last_n": 64, "mirostat": 0}
    all_that_fits = {"num_predict": -1, "seed": -1}
    ask("/api/chat", messages=USER, options=options | hardware | {"stop": ["x", "y"], "num_predict": 5})
    ask("/api/chat", messages=USER, options=all_that_fits, keep_alive="5m", format="", think=False)
    given, default = (request.sampling for request in engine.seen)
    assert (given.temperature, given.top_p, given.top_k, given.min_p) == (0.5, 0.9, 4, 0.1)
    assert (given.repetition_penalty, given.seed, given.stop, given.max_tokens) == (1.2, 3, ("x", "y"), 5)
    assert default.seed is None
    assert default.max_tokens == engine.context_tokens - len("user:Hi\n")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"messages": []}),
        ("/api/chat", {}),
        ("/api/generate", {}),
        ("/api/generate", {"prompt": ""}),
    ],
)
def test_a_request_that_asks_nothing_finds_the_model_loaded(path, fields, ask, engine):
    _, (answer,) = ask(path, **fields)
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert engine.seen == []
    assert ask(path, **fields, model="other")[0].status_code == 404


def test_calls_come_as_objects_whole_and_in_a_line_of_their_own(ask, engine):
    engine.script = "Let me see.\n" + HERMES.written("weather", '{"city":\n "B\\"}", "n": 1e400}')
    engine.script = engine.script.removesuffix(HERMES.closing)
    engine.script += f"{HERMES.between}time{HERMES.middle}{{}}{HERMES.closing}"
    _, (whole,) = ask("/api/chat", messages=USER, tools=TOOLS, stream=False)
    reply, lines = ask("/api/chat", messages=USER, tools=TOOLS)
    calls = whole["message"]["tool_calls"]
    weather = {"index": 0, "name": "weather", "arguments": {"city": 'B"}', "n": float("inf")}}
    assert calls[0]["function"] == weather
    assert calls[1]["function"] == {"index": 1, "name": "time", "arguments": {}}
    assert '"n": 1e400' in reply.text  # as the model wrote it: JSON has no infinity
    assert calls[0]["id"] != calls[1]["id"]
    in_lines = [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]]
    assert [[call["function"] for call in each] for each in in_lines] == [[c["function"]] for c in calls]
    text = "".join(line["message"]["content"] for line in lines)
    assert text == whole["message"]["content"] == "Let me see."
    assert whole["done_reason"] == lines[-1]["done_reason"] == "stop"
    assert engine.seen[0].constraint is not None


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_short_stays_text(stream, ask, engine):
    engine.script = HERMES.written("weather", '{"city": "Berlin"}')
    length = engine.script.index("Ber") + 3
    options = {"num_predict": length}
    _, lines = ask("/api/chat", messages=USER, tools=TOOLS, options=options, stream=stream)
    assert "".join(line["message"]["content"] for line in lines) == engine.script[:length]
    assert not any("tool_calls" in line["message"] for line in lines)
    assert lines[-1]["done_reason"] == "length"


def test_earlier_calls_and_results_find_each_other(ask, engine, monkeypatch):
    seen = []
    monkeypatch.setattr(
        engine, "tokenize_chat", lambda messages, variables=None, tools=(): seen.append(messages) or [1]
    )
    names = ("weather", "time", "weather")
    calls = [{"function": {"name": name, "arguments": {"n": i}}} for i, name in enumerate(names)]
    calls.append({"type": "function", "id": "mine", "function": {"name": "time", "index": 3}})
    results = [
        {"tool_name": "time"},
        {},
        {"tool_call_id": "mine"},
        {"name": "weather"},
        {"tool_name": "lost"},
    ]
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    messages += [{"role": "tool", "content": "r"} | result for result in results]
    assert ask("/api/chat", messages=messages, options={"num_predict": 1})[0].status_code == 200
    (turns,) = seen
    ids = [call["id"] for call in turns[1]["tool_calls"]]
    assert [call["function"]["arguments"] for call in turns[1]["tool_calls"]] == [
        *({"n": i} for i in range(3)),
        {},
    ]
    found = [turn["tool_call_id"] for turn in turns[2:]]
    assert found[:4] == [ids[1], ids[0], "mine", ids[2]]
    assert found[4] not in ids


@pytest.mark.parametrize("raw", [False, True])
def test_format_holds_the_answer(raw, ask, engine):
    fields = {"prompt": "x", "raw": raw, "stream": False, "options": {"num_predict": 1}}
    for wanted in ("json", {"type": "object", "properties": {"a": {"type": "integer"}}}):
        assert ask("/api/generate", **fields, format=wanted)[0].status_code == 200
        assert engine.seen[-1].constraint is not None
    assert '"a"' in engine.compiled[-1]
    reply, (told,) = ask("/api/generate", **fields, format={"not": {}})
    assert (reply.status_code, told["error"][:8]) == (400, "format: ")


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/api/chat", {"messages": USER, "model": "llama3"}, "'llama3' is not served here; 'org/toy' is"),
        ("/api/chat", {"messages": USER, "optons": {}}, "optons: "),
        ("/api/chat", {"messages": USER, "options": {"temperature": 3}}, "options.temperature: "),
        ("/api/chat", {"messages": USER, "options": {"num_predict": 0}}, "options.num_predict: "),
        ("/api/chat", {"messages": USER, "options": {"mirostat": 1}}, "options.mirostat: "),
        ("/api/chat", {"messages": USER, "options": {"typical_p": 0.5}}, "options.typical_p: this server"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x" * 600}]}, "exceed the context of 512"),
        ("/api/chat", {"messages": USER, "think": True}, "think: "),
        ("/api/chat", {"messages": USER, "tools": [{"type": "web"}]}, "tools[0].type: "),
        ("/api/chat", {"messages": USER, "format": "xml"}, "format"),
        ("/api/chat", {"messages": [{"role": "user", "tool_calls": [CALL]}]}, "only the assistant calls"),
        ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [BAD]}]}, "function.arguments: "),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["eA=="]}]}, "images: "),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, "suffix: this server does not support it"),
        ("/api/generate", {"prompt": "x", "context": [1, 2]}, "context: this server does not support it"),
        ("/api/generate", {"prompt": "x" * 600, "raw": True}, "exceed the context of 512"),
        ("/api/embed", {"input": ["x", "x" * 600]}, "input[1]: 600 tokens exceed the context of 512"),
        ("/api/embed", {"input": "x", "truncate": True}, "truncate: "),
        ("/api/show", {"model": None}, "model: give the model's name"),
    ],
    ids=str,
)
def test_refusals_are_one_text(path, fields, words, ask, engine):
    reply, (told,) = ask(path, **fields)
    assert reply.status_code == (404 if "not served" in words else 400)
    assert set(told) == {"error"}
    assert words in told["error"]
    assert engine.seen == []


def test_an_answer_that_breaks_off_ends_with_the_error(ask):
    _, lines = ask("/api/chat", messages=[{"role": "user", "content": "crash"}])
    assert "the decoder failed" in lines[-1]["error"]
    assert not any(line.get("done") for line in lines)
    reply, (told,) = ask("/api/chat", messages=[{"role": "user", "content": "crash"}], stream=False)
    assert (reply.status_code, set(told)) == (503, {"error"})


def test_embeddings_are_those_of_openai_s_path(ask, toy):
    _, (answer,) = ask("/api/embed", input=["ab", "c"])
    found, expected = answer["embeddings"], [toy.embedding_of((97, 98)), toy.embedding_of((99,))]
    assert found == [pytest.approx(vector, abs=1e-7) for vector in expected]
    assert (answer["prompt_eval_count"], answer["load_duration"]) == (3, 0)
    assert answer["total_duration"] > 0
    assert len(ask("/api/embed", input="ab", dimensions=2)[1][0]["embeddings"][0]) == 2


def test_what_tools_probe(get, ask):
    assert get("/").text == "Ollama is running"
    assert tuple(map(int, get("/api/version").json()["version"].split("."))) >= (0, 5, 0)
    (model,) = get("/api/tags").json()["models"]
    assert get("/api/ps").json()["models"] == [model]
    assert model["name"] == model["model"] == "org/toy:latest"
    assert (model["size"], len(model["digest"])) == (123_456, 64)
    assert (model["details"]["parameter_size"], model["details"]["quantization_level"]) == ("2.4B", "ternary")
    for field in ("model", "name"):
        _, (shown,) = ask("/api/show", **{"model": None, field: "org/toy:latest"})
        info = shown["model_info"]
        assert info[f"{info['general.architecture']}.context_length"] == 512
        assert shown["capabilities"] == ["completion", "tools", "embedding"]
    assert ask("/api/show", model="llama3")[0].status_code == 404
    assert _amount(134_515_008) == "134.5M"


def test_the_same_keys_open_it(engine, get, ask):
    locked = create_server(engine, keys=ApiKeys.of(["a-key"]))
    for path in ("/", "/api/tags", "/api/version"):
        assert get(path, to=locked).status_code == 401
        assert get(path, to=locked, headers={"Authorization": "Bearer a-key"}).status_code == 200
    reply, (told,) = ask("/api/chat", to=locked, messages=USER)
    assert (reply.status_code, told) == (401, {"error": "give an API key: Authorization: Bearer KEY"})


def test_a_body_that_is_not_json_is_refused_as_elsewhere(server, talk):
    """What curl sends without a header, and what any web page may send to a port of this machine."""

    async def work(http):
        return await http.plain.post("/api/chat", content=b'{"model":"org/toy"}')

    reply = talk(server, work)
    assert reply.status_code == 415
    assert "Content-Type: application/json" in reply.json()["error"]


def test_silence_is_a_line_without_text(toy, talk, monkeypatch):
    from wrinklefree_inference.http.generation import Generation

    monkeypatch.setattr(Generation.arrivals, "__defaults__", (0.02,))
    server = create_server(toy.ToyEngine(delay_s=0.1))

    async def work(http):
        return await http.post("/api/generate", prompt="Hi", options={"num_predict": 1})

    first, *_ = talk(server, work).text.splitlines()
    assert (json.loads(first)["response"], json.loads(first)["done"]) == ("", False)


def test_requests_are_counted_by_path(server, talk):
    async def work(http):
        await http.post("/api/generate", prompt="Hi", options={"num_predict": 3})
        return (await http.plain.get("/metrics")).text

    page = talk(server, work)
    assert 'wf_http_requests_total{endpoint="/api/generate",status="200"} 1.0' in page
    assert "wf_completion_tokens_total 3.0" in page
