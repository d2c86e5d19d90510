"""Metrics and log lines."""

from __future__ import annotations

import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.logs import JsonFormatter, TextFormatter

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "a private question of more than thirty-two letters"}]


def read(page: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(page)
    return {
        (s.name, *(s.labels[name] for name in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }


def test_metrics(server, talk):
    async def work(http):
        await http.post(CHAT, messages=USER, max_tokens=7)
        await http.post(CHAT, messages=USER, max_tokens=5, stream=True)
        await http.post(CHAT, messages=[])
        await http.plain.get("/secret/path")
        return await http.plain.get("/metrics")

    reply = talk(server, work)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = read(reply.text)
    assert found["wf_http_requests_total", CHAT, "200"] == 2
    assert found["wf_http_requests_total", CHAT, "400"] == 1
    assert found["wf_http_requests_total", "other", "404"] == 1
    assert found["wf_http_request_seconds_count", CHAT] == 3
    prompt = len(f"user:{USER[0]['content']}\n")
    assert found["wf_prompt_tokens_total",] == 2 * prompt
    assert found["wf_prompt_tokens_cached_total",] == 2 * (prompt // 32 * 32)
    assert found["wf_completion_tokens_total",] == 12
    assert found["wf_first_token_seconds_count",] == 2
    assert found["wf_between_tokens_seconds_count",] == 6 + 4
    assert found["wf_engine_running",] == 0
    assert found["wf_engine_queue_limit",] == 4
    assert found["wf_engine_kv_pages_limit",] == 100
    assert "secret" not in reply.text


def test_a_log_line_without_prompt_and_key(engine, talk, caplog):
    caplog.set_level(logging.INFO)
    server = create_server(engine, keys=ApiKeys.of(["other-key", "secret-key"]))

    async def work(http):
        headers = {"Authorization": "Bearer secret-key"}
        body = {"model": "org/toy", "messages": USER, "max_tokens": 3, "stream": True}
        return await http.plain.post(CHAT, json=body, headers=headers)

    reply = talk(server, work)
    record = next(r for r in caplog.records if r.message == "request")
    line = json.loads(JsonFormatter().format(record))
    assert line["request_id"] == reply.headers["x-request-id"]
    assert (line["endpoint"], line["status"], line["key"], line["outcome"]) == (CHAT, 200, 1, "ok")
    assert (line["prompt_tokens"], line["completion_tokens"], line["stream"]) == (56, 3, True)
    assert 0 < line["first_token_s"] <= line["duration_s"]
    everything = str([r.__dict__ for r in caplog.records])
    assert "private" not in everything
    assert "secret-key" not in everything
    text = TextFormatter().format(record)
    assert f"INFO request request_id={line['request_id']} endpoint={CHAT} status=200" in text
    assert "\n" not in text


def test_health_is_not_worth_a_line(server, talk, caplog):
    caplog.set_level(logging.INFO)

    async def work(http):
        await http.plain.get("/health")

    talk(server, work)
    assert not [r for r in caplog.records if r.message == "request"]


def test_a_traceback_in_json():
    try:
        raise ValueError("told")
    except ValueError:
        import sys

        record = logging.LogRecord("a", logging.ERROR, __file__, 1, "it %s", ("broke",), sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "it broke"
    assert "ValueError: told" in line["exception"]


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_message_cannot_forge_a_json_line(formatter):
    record = logging.LogRecord("a", logging.INFO, __file__, 1, "x\ny", (), None)
    lines = formatter.format(record).splitlines()
    assert len(lines) == (1 if isinstance(formatter, JsonFormatter) else 2)
