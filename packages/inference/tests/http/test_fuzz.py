"""Cases that nobody thought of, made from the OpenAPI page: never a 500, always what the page promises."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import checks

from wrinklefree_inference.http.app import HttpApp, create_server

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def server(toy: Any) -> HttpApp:
    return create_server(toy.ToyEngine(max_running=64, max_waiting=64))


@pytest.fixture(scope="module")
def page(server: HttpApp) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", server.app, headers={"Host": "localhost"})


OPERATIONS = {
    "createChatCompletion": 30,
    "createCompletion": 30,
    "createEmbedding": 20,
    "createResponse": 20,
    "ollamaChat": 20,
    "ollamaGenerate": 15,
    "ollamaEmbed": 10,
    "ollamaShow": 5,
    "ollamaHere": 1,
    "ollamaVersion": 1,
    "ollamaTags": 1,
    "ollamaPs": 1,
    "listModels": 10,
    "retrieveModel": 20,
    "health": 10,
    "loads": 10,
    "metrics": 10,
}


def test_all_operations_are_tried(page: Any) -> None:
    found = [result.ok().definition.raw["operationId"] for result in page.get_all_operations()]
    assert sorted(found) == sorted(OPERATIONS)


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("operation_id", "mode"),
    [
        *((operation_id, schemathesis.GenerationMode.POSITIVE) for operation_id in OPERATIONS),
        *((operation_id, schemathesis.GenerationMode.NEGATIVE) for operation_id in list(OPERATIONS)[:2]),
    ],
)
def test_every_operation(operation_id: str, mode: schemathesis.GenerationMode, times: int, page: Any) -> None:
    """Bodies and paths that fit the page, and such that do not."""
    cases = page.find_operation_by_id(operation_id).as_strategy(generation_mode=mode)

    @hypothesis.settings(
        max_examples=OPERATIONS[operation_id] * times,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
    )
    @hypothesis.given(case=cases)
    def try_it(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "org/toy"  # else hardly anything would get past the 404
        case.call_and_validate(checks=CHECKS, headers={"Host": "localhost"})

    try_it()


@pytest.mark.parametrize("nothing", [None, [], {}], ids=str)
def test_the_page_has_what_stands_for_nothing(nothing: Any, page: Any, server: HttpApp) -> None:
    """Clients send it for what they do not use."""
    fields = page.raw_schema["components"]["schemas"]["ChatRequest"]["properties"]
    allowed = fields["verbosity"]["anyOf"]
    kinds = {type(None): "null", list: "array", dict: "object"}
    assert kinds[type(nothing)] in [each["type"] for each in allowed]
    body = {"model": "org/toy", "messages": [{"role": "user", "content": "x"}], "verbosity": nothing}
    assert asyncio.run(_post(server, "/v1/chat/completions", body))[0] == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = [
    *(
        "messages",
        "prompt",
        "n",
        "stop",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "max_tokens",
    ),
    *("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "logit_bias", "user", "tools"),
    *("metadata", "response_format", "echo", "suffix", "best_of", "presence_penalty", "ignore_eos", "\ud800"),
    *(
        "tool_choice",
        "parallel_tool_calls",
        "frequency_penalty",
        "reasoning_effort",
        "chat_template_kwargs",
        "num_ctx",
        "options",
        "temprature",
        "input",
        "text",
        "format",
    ),
]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x", "max_tokens": 4},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
    "/v1/responses": {"input": "x", "max_output_tokens": 4},
    "/api/chat": {"messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 4}},
}


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
@hypothesis.given(path=st.sampled_from(sorted(GOOD)), data=st.data())
def test_one_wrong_field(path: str, data: Any, server: HttpApp) -> None:
    """A good request in which any fields hold anything."""
    body = (
        {"model": "org/toy"}
        | GOOD[path]
        | data.draw(st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
    )
    status, text = asyncio.run(_post(server, path, body))
    assert status in (200, 400), text
    assert status == 400 or "temprature" not in body
    if status == 400:
        assert '"error"' in text


async def _post(server: HttpApp, path: str, body: dict[str, Any]) -> tuple[int, str]:
    transport = httpx.ASGITransport(server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        headers = {"Content-Type": "application/json"}
        reply = await client.post(path, content=json.dumps(body).encode(), headers=headers)
        return reply.status_code, reply.text
