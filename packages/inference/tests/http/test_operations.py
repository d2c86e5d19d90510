"""Paths, and the OpenAPI page about them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any

from wrinklefree_inference.http.handlers import Operation, handler
from wrinklefree_inference.http.operations import operations_of
from wrinklefree_inference.http.record import begin


def references(value: Any) -> set[str]:
    """All `$ref` in a page."""
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_the_page_tells_every_operation_and_has_what_it_refers_to(server, talk):
    async def work(http):
        return (await http.plain.get("/openapi.json")).json()

    page = talk(server, work)
    told = {
        (method.upper(), path): operation
        for path, methods in page["paths"].items()
        for method, operation in methods.items()
    }
    known = {(one.method, one.path.replace(":path", "")): one.id for one in operations_of(None)}
    assert {key: operation["operationId"] for key, operation in told.items()} == known
    for (method, _), operation in told.items():
        assert operation["summary"]
        assert operation["description"]
        assert ("requestBody" in operation) is (method == "POST")
        assert "200" in operation["responses"]
    schemas = page["components"]["schemas"]
    assert references(page) == {f"#/components/schemas/{name}" for name in schemas} & references(page)
    assert {"ErrorResponse", "OllamaError", "ChatRequest", "ResponseObject"} <= schemas.keys()


def test_every_path_has_its_own_line_in_log_and_metrics():
    for operation in operations_of(None):
        path = re.sub(r":path", "", operation.path)
        assert begin({"path": path}).endpoint == path


def test_methods_that_a_path_does_not_have(server, talk):
    async def work(http):
        paths = {"/v1/models": "GET", "/v1/chat/completions": "POST", "/openapi.json": "GET"}
        replies = [(await http.plain.request("DELETE", path), method) for path, method in paths.items()]
        return replies, await http.plain.head("/v1/models"), await http.plain.get("/v1/models/")

    replies, head, slash = talk(server, work)
    for reply, method in replies:
        assert (reply.status_code, reply.headers["allow"]) == (405, method)
        assert reply.json()["error"]["code"] == "method_not_allowed"
    assert head.status_code == 200
    assert slash.status_code == 404  # no redirect


def test_a_handler_is_not_loaded_in_the_event_loop():
    threads = []

    async def answer(http):
        """Nothing."""

    def load():
        threads.append(threading.current_thread())
        time.sleep(0.1)
        return handler()(answer)

    async def work():
        one = Operation("GET", "/", "x", load)
        return await asyncio.gather(*(one.ready() for _ in range(3)))

    assert {found.answer for found in asyncio.run(work())} == {answer}
    assert threads
    assert threading.main_thread() not in threads
