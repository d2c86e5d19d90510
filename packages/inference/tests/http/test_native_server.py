"""The whole of it: `serve` as a process, the native engine, a small real model, the official client."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import httpx
import openai
import pydantic
import pytest

ASK = {"model": "two-layers", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture(scope="module")
def served(
    serve: Callable[..., tuple[subprocess.Popen[str], str]], ternary_gguf: Path
) -> tuple[subprocess.Popen[str], str]:
    options = ["--threads", "1", "--context", "512", "--log-format", "json", "--api-key", "a-key"]
    return serve("--model", str(ternary_gguf), *options)


@pytest.fixture(scope="module")
def client(served: tuple[subprocess.Popen[str], str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served[1], api_key="a-key", max_retries=0) as made:
        yield made


def test_chat_whole_and_streamed(client: openai.OpenAI):
    options = ASK | {"max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**options)
    chunks = list(
        client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    text = whole.choices[0].message.content
    assert text
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    tokens = whole.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode("utf-8", "replace").startswith(text[:10])
    assert all(t.logprob == t.top_logprobs[0].logprob for t in tokens)  # greedy
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens <= 24
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens > 20


def test_same_seed_same_text(client: openai.OpenAI):
    ask = {"model": "two-layers", "prompt": "Once upon a time", "max_tokens": 16, "temperature": 1.0}
    both = client.completions.create(**ask, seed=5, n=2)
    second = client.completions.create(**ask, seed=6)
    assert both.choices[1].text == second.choices[0].text
    assert both.choices[0].text != both.choices[1].text


def test_offsets_and_prefix_cache(client: openai.OpenAI):
    prompt = "A long prompt that is the same again and again. " * 8
    ask = {"model": "two-layers", "prompt": prompt, "max_tokens": 12, "temperature": 0, "logprobs": 0}
    client.completions.create(**ask)
    reply = client.completions.create(**ask)
    assert reply.usage.prompt_tokens_details.cached_tokens >= 64
    choice = reply.choices[0]
    starts = choice.logprobs.text_offset
    rebuilt = [choice.text[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    assert "".join(rebuilt) == choice.text


def test_guessed_tokens_are_told(served: tuple[subprocess.Popen[str], str], client: openai.OpenAI):
    """The model goes round in circles, which prompt lookup guesses; the figures are those of /metrics."""

    def figures() -> tuple[float, float]:
        page = httpx.get(
            served[1].removesuffix("/v1") + "/metrics", headers={"Authorization": "Bearer a-key"}
        ).text
        guessed, accepted = (
            float(page.split(f"\nwf_engine_{name}_tokens_total ")[1].split()[0])
            for name in ("guessed", "accepted")
        )
        return guessed, accepted

    before = figures()
    prompt = "one two three four five, " * 8
    reply = client.completions.create(model="two-layers", prompt=prompt, max_tokens=120, temperature=0)
    after, details = figures(), reply.usage.completion_tokens_details
    accepted, refused = details.accepted_prediction_tokens, details.rejected_prediction_tokens
    assert 0 < accepted < reply.usage.completion_tokens
    assert (accepted + refused, accepted) == (after[0] - before[0], after[1] - before[1])


def test_other_paths_give_the_same_answer(served: tuple[subprocess.Popen[str], str], client: openai.OpenAI):
    question = ASK["messages"][0]["content"]
    chat = client.chat.completions.create(**ASK, max_tokens=12, temperature=0)
    text, usage = chat.choices[0].message.content, chat.usage
    response = client.responses.create(
        model="two-layers", input=question, max_output_tokens=12, temperature=0
    )
    assert response.output_text == text
    assert response.usage.input_tokens == usage.prompt_tokens
    with httpx.Client(
        base_url=served[1].removesuffix("/v1"), headers={"Authorization": "Bearer a-key"}
    ) as http:
        options = {"temperature": 0, "num_predict": 12}
        body = ASK | {"model": "two-layers:latest", "options": options, "stream": False}
        answer = http.post("/api/chat", json=body).json()
        (model,) = http.get("/api/tags").json()["models"]
    assert (answer["message"]["content"], answer["prompt_eval_count"]) == (text, usage.prompt_tokens)
    assert (model["name"], model["size"] > 10**6) == ("two-layers:latest", True)


def test_embeddings_alone_and_together(client: openai.OpenAI):
    texts = ["Paris is the capital of France.", "x", "A long text about something else. " * 20]
    ask = {"model": "two-layers", "encoding_format": "float"}
    together = [item.embedding for item in client.embeddings.create(input=texts, **ask).data]
    alone = [client.embeddings.create(input=text, **ask).data[0].embedding for text in texts]
    assert together == alone
    for vector in together:
        assert len(vector) == 128
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="exceed the context of 512"):
        client.embeddings.create(input="many words " * 600, **ask)


def test_refusals(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="not in the vocabulary"):
        client.completions.create(model="two-layers", prompt=[10**6])
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="two-layers", prompt=[5] * 512)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="token id 999999999 is not in the vocabulary") as error:
        client.chat.completions.create(**ASK, logit_bias={"999999999": 1})
    assert error.value.param == "logit_bias"


def test_rules_for_single_tokens(client: openai.OpenAI):
    """What is told of the forced token is the model's own opinion."""
    ask = ASK | {"max_tokens": 6, "logprobs": True, "temperature": 0}
    forced = client.chat.completions.create(**ask, logit_bias={"500": 100}).choices[0].logprobs.content
    assert len(forced) == 6
    assert len({token.token for token in forced}) == 1
    assert max(token.logprob for token in forced) < -1
    rules = {"presence_penalty": 2, "frequency_penalty": 2, "logit_bias": {"500": 3.0}}
    found = client.chat.completions.create(**ask, **rules).choices[0].logprobs.content
    assert [token.token for token in found].count(forced[0].token) < 6


def test_what_other_servers_know(client: openai.OpenAI):
    extra = {"num_ctx": 2048, "chat_template_kwargs": {"enable_thinking": True}}
    ask = ASK | {"max_tokens": 2, "reasoning_effort": "none", "extra_body": extra}
    reply = client.chat.completions.with_raw_response.create(**ask)
    assert reply.headers["x-wf-ignored"] == "num_ctx"
    assert reply.parse().usage.completion_tokens == 2


class City(pydantic.BaseModel):
    name: Literal["Bern", "Rome"]
    people: Annotated[int, pydantic.Field(ge=0, le=999)]
    is_capital: bool


def test_json_of_a_pydantic_model(client: openai.OpenAI):
    """The model is random: what is right about its answers is the grammar's doing."""
    ask = ASK | {"response_format": City, "temperature": 1.0, "seed": 3}
    reply = client.chat.completions.parse(**ask, n=4, logprobs=True)
    assert all(isinstance(choice.message.parsed, City) for choice in reply.choices)
    assert {choice.finish_reason for choice in reply.choices} == {"stop"}
    assert len({choice.message.content for choice in reply.choices}) > 1
    for choice in reply.choices:
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
        assert all(
            token.logprob < 0 for token in choice.logprobs.content
        )  # the model's own, without the mask
    with client.chat.completions.stream(**ask) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
    assert "".join(deltas) == reply.choices[0].message.content
    assert len(deltas) > 3


def test_json_that_is_cut_short_says_so(client: openai.OpenAI):
    ask = ASK | {"response_format": {"type": "json_object"}, "temperature": 1.0, "seed": 3}
    short = client.chat.completions.create(**ask, max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    stopped = client.chat.completions.create(**ask, max_tokens=50, stop=["}", '"'])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content.strip() == "{"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "City"}}])
def test_a_random_model_calls_with_valid_arguments(choice: object, client: openai.OpenAI):
    time_of_day = {"type": "function", "function": {"name": "time", "strict": True}}
    tools = [openai.pydantic_function_tool(City), time_of_day]
    ask = ASK | {"tools": tools, "tool_choice": choice, "temperature": 1.0}
    for seed in range(4):
        reply = client.chat.completions.parse(**ask, seed=seed, parallel_tool_calls=False).choices[0]
        (call,) = reply.message.tool_calls
        assert reply.finish_reason == "tool_calls"
        assert reply.message.content is None
        if call.function.name == "City":
            assert isinstance(call.function.parsed_arguments, City)
        else:
            assert (call.function.name, call.function.arguments, choice) == ("time", "{}", "required")
    chunks = list(client.chat.completions.create(**ask, seed=3, parallel_tool_calls=False, stream=True))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0].function.name == call.function.name
    assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
    history = [
        *ASK["messages"],
        reply.message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    after = client.chat.completions.create(
        model="two-layers", messages=history, tools=tools, tool_choice="none", max_tokens=4
    )
    assert after.choices[0].message.tool_calls is None
    before = client.chat.completions.create(**ASK, max_tokens=4)
    assert after.usage.prompt_tokens > before.usage.prompt_tokens + 20


def test_a_call_that_was_cut_short_is_no_end_of_the_conversation(client: openai.OpenAI):
    tools = [openai.pydantic_function_tool(City)]
    ask = {"model": "two-layers", "tools": tools, "temperature": 1.0, "seed": 3}
    for length in range(12, 30):
        cut = client.chat.completions.create(
            **ask, messages=ASK["messages"], tool_choice="required", max_tokens=length
        ).choices[0]
        if cut.message.tool_calls and cut.message.tool_calls[0].function.arguments.startswith("{"):
            break
    assert cut.finish_reason == "length"
    (call,) = cut.message.tool_calls
    told = {"role": "tool", "tool_call_id": call.id, "content": "these arguments are no JSON"}
    history = [*ASK["messages"], cut.message, told]
    after = client.chat.completions.create(**ask, messages=history, tool_choice="none", max_tokens=4)
    assert after.usage.completion_tokens > 0


def test_calls_on_other_paths_are_as_valid(served: tuple[subprocess.Popen[str], str], client: openai.OpenAI):
    ask = {"model": "two-layers", "input": "Hello", "temperature": 1.0, "extra_body": {"seed": 3}}
    ask |= {
        "tools": [openai.pydantic_function_tool(City)],
        "tool_choice": {"type": "function", "name": "City"},
    }
    called = client.responses.parse(**ask)
    with client.responses.stream(**ask) as stream:
        streamed = stream.get_final_response()
    (call,) = called.output
    assert isinstance(call.parsed_arguments, City)
    assert (call.arguments, call.status) == (streamed.output[0].arguments, "completed")
    with httpx.Client(
        base_url=served[1].removesuffix("/v1"), headers={"Authorization": "Bearer a-key"}
    ) as http:
        options = {"temperature": 1.0, "seed": 3, "num_predict": 400}
        body = ASK | {"model": "two-layers", "options": options, "format": City.model_json_schema()}
        answer = http.post("/api/chat", json=body | {"stream": False}).json()
    assert isinstance(City.model_validate_json(answer["message"]["content"]), City)


def test_metrics_then_shutdown_in_mid_stream(
    served: tuple[subprocess.Popen[str], str], client: openai.OpenAI
):
    child, url = served
    page = httpx.get(url.replace("/v1", "/metrics"), headers={"Authorization": "Bearer a-key"}).text
    assert 'wf_http_requests_total{endpoint="/v1/completions",status="200"} 5.0' in page
    assert "wf_engine_prefix_hit_tokens_total" in page
    stream = client.completions.create(
        model="two-layers", prompt="x", max_tokens=100, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = [next(stream)]
    child.send_signal(signal.SIGTERM)
    chunks += list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert child.wait(10) == 0
    log = child.stderr.read()
    assert "a-key" not in log
    assert "Once upon" not in log
