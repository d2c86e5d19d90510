"""The server through the official OpenAI client, and as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest

from wrinklefree_inference import EngineError
from wrinklefree_inference.addresses import is_loopback
from wrinklefree_inference.llamacpp.server import start_server
from wrinklefree_inference.options import ListenOptions, LlamaCppServerOptions, ServedEngineOptions


@pytest.fixture(scope="module")
def client(server_url: str):
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat(client: openai.OpenAI):
    reply = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "Say hi."}],
        max_tokens=8,
        temperature=0,
    )
    assert reply.choices[0].message.content
    assert reply.usage.completion_tokens <= 8


def test_streamed_chat_equals_the_whole_one(client: openai.OpenAI):
    request = {
        "model": "any",
        "messages": [{"role": "user", "content": "Say hi."}],
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**request).choices[0].message.content
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert len(chunks) > 3
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole


def test_completions_models_and_health(client: openai.OpenAI, server_url: str):
    reply = client.completions.create(model="any", prompt="1, 2, 3, 4,", max_tokens=4, temperature=0)
    assert reply.choices[0].text.startswith(" 5,")
    assert [m.id for m in client.models.list()] == ["SmolLM2-135M-Instruct.Q4_1"]
    assert httpx.get(f"{server_url}/health").json() == {"status": "ok"}


def test_a_bad_request_is_refused(client: openai.OpenAI):
    with pytest.raises(openai.APIStatusError, match="role"):
        client.chat.completions.create(model="any", messages=[{"content": "no role"}])


def test_no_page_of_another_origin_may_read_answers(server_url: str):
    reply = httpx.get(f"{server_url}/v1/models", headers={"Origin": "https://example.org"})
    assert reply.headers.get("access-control-allow-origin", "") == ""


def test_key_is_asked_for(small_gguf: Path):
    listen = ListenOptions(port=0, api_key=["secret"])
    server = start_server(LlamaCppServerOptions(small_gguf, listen, ServedEngineOptions(num_threads=1)))
    url = f"{server.listening_address}/v1/models"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_other_hosts_need_a_key(host: str, local: bool):
    assert is_loopback(host) is local
    assert ListenOptions(host, api_key=["secret"]).host == host
    if not local:
        with pytest.raises(ValueError, match="set an API key"):
            ListenOptions(host)


def test_a_taken_port_is_named(small_gguf: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=rf"cannot listen on 127.0.0.1:{port}: Address"):
            start_server(LlamaCppServerOptions(small_gguf, ListenOptions(port=port)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_and_stops(number: signal.Signals, small_gguf: Path):
    """Also in the middle of an answer."""
    command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--model", str(small_gguf)]
    command += ["--engine", "llamacpp"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--threads", "1", "--model-id", "two-layers"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with process:
        line = process.stdout.readline()
        url = line.split(" at ")[1].split(" ")[0]
        assert httpx.get(f"{url}/models").json()["data"][0]["id"] == "two-layers"
        request = {"prompt": "a", "max_tokens": 4000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{url}/completions", json=request, timeout=10) as reply:
            first = next(line for line in reply.iter_lines() if line)
            assert json.loads(first.removeprefix("data: "))["choices"]
            process.send_signal(number)
        assert process.wait(timeout=10) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models")
