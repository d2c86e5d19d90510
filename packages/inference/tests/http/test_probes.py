"""What routers ask of a server before and while they give it requests."""

from __future__ import annotations

import logging
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.native.request import EngineStats


def test_loads_tell_queue_and_cache(engine, server, talk):
    engine.stats = lambda: EngineStats(running=3, waiting=2, kv_pages_used=25, kv_pages_total=100)

    async def work(http):
        return await http.plain.get("/v1/loads?include=core")

    assert talk(server, work).json() == {
        "loads": [
            {
                "dp_rank": 0,
                "num_running_reqs": 3,
                "num_waiting_reqs": 2,
                "num_total_reqs": 5,
                "num_used_tokens": 800,
                "max_total_num_tokens": 3200,
                "token_usage": 0.25,
            }
        ]
    }


def test_loads_are_for_who_has_a_key_and_leave_no_line(engine, talk, caplog):
    caplog.set_level(logging.INFO)
    server = create_server(engine, keys=ApiKeys.of(["a-key"]))

    async def work(http):
        refused = await http.plain.get("/v1/loads")
        caplog.clear()
        answer = await http.plain.get("/v1/loads", headers={"Authorization": "Bearer a-key"})
        return refused.status_code, answer.status_code

    assert talk(server, work) == (401, 200)
    assert not [record for record in caplog.records if record.name.startswith("wrinklefree")]


@pytest.mark.parametrize(
    "path", ["/server_info", "/get_server_info", "/model_info", "/get_model_info", "/version", "/loads"]
)
def test_what_would_make_it_another_engine_is_not_found(server, talk, caplog, path):
    caplog.set_level(logging.WARNING)

    async def work(http):
        return await http.plain.get(path)

    answer = talk(server, work)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert not caplog.records


def test_http_2_is_told_to_speak_http_1(in_thread, caplog):
    caplog.set_level(logging.WARNING)
    with in_thread() as (url, _):
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert httpx.get(f"{url}/health").status_code == 200
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not caplog.records
