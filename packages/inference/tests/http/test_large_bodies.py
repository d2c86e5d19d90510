"""Bodies of many values, shorter than the limit: refused before they become objects; others are served."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.json_bounds import JsonBounds
from wrinklefree_inference.http.strict_json import _IN_LOOP_BYTES

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HEAD = '{"model": "org/toy", "max_tokens": 1, '


def many(before: str, item: str, number: int, after: str) -> bytes:
    return (HEAD + before + ",".join([item] * number) + after).encode()


TURN = '{"role":"user","content":""}'
MANY = {
    "messages": (CHAT, many('"messages": [', TURN, 130_000, "]}"), "messages"),
    "parts": (
        CHAT,
        many('"messages": [{"role":"user","content":[', '{"type":"text","text":""}', 150_000, "]}]}"),
        "messages",
    ),
    "empty parts": (CHAT, many('"messages": [{"role":"user","content":[', "{}", 150_000, "]}]}"), "messages"),
    "prompts": (TEXT, many('"prompt": [', "[1]", 990_000, "]}"), "prompt"),
    "texts": (TEXT, many('"prompt": [', '""', 1_300_000, "]}"), "prompt"),
    "ids": (TEXT, many('"prompt": [', "1", 1_990_000, "]}"), "prompt"),
    "nested": (CHAT, many('"messages": [', "[" * 20 + "]" * 20, 90_000, "]}"), "messages"),
    "metadata": (CHAT, many('"metadata": {', '"k":1', 600_000, "}}"), "metadata"),
    "keys": (TEXT, (HEAD + ",".join(f'"k{i}":1' for i in range(330_000)) + "}").encode(), None),
    "after texts with quotes": (
        TEXT,
        many(r'"user": "\"[[{\\\",\\", "prompt": [', "[1]", 900_000, "]}"),
        "prompt",
    ),
}


def post(url: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    client.request("POST", path, body, {"Content-Type": "application/json"})
    reply = client.getresponse()
    found = json.loads(reply.read())
    client.close()
    return reply.status, found


def test_others_are_served_meanwhile(process):
    """All of them at once; before they were counted, each stopped everybody for 0.2 to 1.5 s."""
    with process(0, 1) as (_, url):
        answers: dict[str, Any] = {}

        def send(name: str) -> None:
            answers[name] = post(url, *MANY[name][:2])

        threads = [threading.Thread(target=send, args=(name,)) for name in MANY]
        for thread in threads:
            thread.start()
        waits = []
        client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        while any(thread.is_alive() for thread in threads):
            started = time.perf_counter()
            client.request("GET", "/health")
            client.getresponse().read()
            waits.append(time.perf_counter() - started)
            time.sleep(0.005)
        client.close()
        for name, (status, body) in answers.items():
            assert status == 400, name
            assert body["error"]["code"] == "too_many_values", name
            assert body["error"]["param"] == MANY[name][2], name
        assert max(waits) < 0.5, waits  # 0.06 on two quiet cores
        assert post(url, TEXT, (HEAD + '"prompt": "x"}').encode())[0] == 200


@pytest.mark.parametrize(
    ("text", "status"),
    [("a, [b] " * 7_000, 200), (r"\"" * 40_000, 200), (r"\\" * 40_000, 200), (r"\\\"{" * 20_000, 200)],
)
def test_what_stands_in_a_text_does_not_count(text, status, in_thread_of_module):
    body = (HEAD + f'"prompt": "{text}"}}').encode()
    assert len(body) > _IN_LOOP_BYTES
    with in_thread_of_module(context_tokens=100_000) as (url, engine):
        assert post(url, TEXT, body)[0] == status
        assert engine.detokenize(engine.seen[0].prompt_ids) == json.loads(body)["prompt"]


@pytest.mark.parametrize(
    ("num", "param", "message"),
    [
        (2049, "messages", "messages: must have at most 2048 item(s), got 2049"),
        (6000, "messages", "messages: must have at most 2048 item(s), got 6000"),
        (130_000, "messages", "messages: the body has more than 16384 lists and objects"),
    ],
)
def test_the_message_names_field_and_limit(num, param, message, server, talk):
    async def work(http: Any) -> Any:
        return await http.post(CHAT, messages=[{"role": "user", "content": ""}] * num)

    error = talk(server, work).json()["error"]
    assert (error["param"], error["message"][: len(message)]) == (param, message)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_no_json(encoding, server, talk):
    """Their values would not be counted."""

    async def work(http: Any) -> Any:
        body = json.dumps({"model": "org/toy", "prompt": "ä"}, ensure_ascii=False).encode(encoding)
        return await http.plain.post(TEXT, content=body, headers={"Content-Type": "application/json"})

    reply = talk(server, work)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a"\\,[]{}:é\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='a"\\,[]{}:é'), inner),
    max_leaves=20,
)


def counts(value: Any) -> tuple[int, int, int]:
    """Lists and objects, texts, commas."""
    if isinstance(value, str):
        return 0, 1, 0
    if not isinstance(value, list | dict):
        return 0, 0, 0
    inner = [*value.values(), *value] if isinstance(value, dict) else value
    found = [counts(one) for one in inner]
    own = (1, 0, max(0, len(value) - 1))
    return tuple(map(sum, zip(own, *found, strict=True)))  # type: ignore[return-value]


@given(VALUES, st.booleans())
def test_all_values_are_counted_and_nothing_else(value, is_ascii):
    body = json.dumps({"a": value}, ensure_ascii=is_ascii).encode()
    containers, texts, commas = counts({"a": value})
    exact = {"containers": containers, "texts": texts, "items": commas + 1}
    JsonBounds(**exact).check(body)
    for name, number in exact.items():
        with pytest.raises(ApiError):
            JsonBounds(**exact | {name: number - 1}).check(body)
