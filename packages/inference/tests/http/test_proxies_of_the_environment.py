"""Proxies of the environment: a server on this machine is asked directly, others as the variables say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from wrinklefree_inference import EngineError, Sampling
from wrinklefree_inference.addresses import trusts_environment
from wrinklefree_inference.cli import app
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.options import ClientOptions

DEAD = "http://127.0.0.1:9"
NAMES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@pytest.fixture(autouse=True)
def no_exceptions(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", *NAMES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", False),
        ("http://127.8.9.1/v1", False),
        ("http://localhost:8080", False),
        ("http://localhost.:8080", False),
        ("http://[::1]:8080", False),
        ("http://0.0.0.0:8080", False),
        ("http://user:word@127.0.0.1", False),
        ("https://models.example", True),
        ("http://192.0.2.7:8080", True),
        ("http://localhost.example", True),
        ("http://127.0.0.1.example", True),
    ],
)
def test_this_machine_is_behind_no_proxy(url, expected):
    assert trusts_environment(url) is expected


@pytest.mark.parametrize("name", NAMES)
def test_a_dead_proxy_does_not_matter_on_loopback(name, monkeypatch, in_thread):
    monkeypatch.setenv(name, DEAD)
    with in_thread() as (url, _):
        for one in (url, url.replace("127.0.0.1", "localhost"), f"{url}/v1"):
            engine = OpenAIEngine(one)
            assert engine.facts.name == "org/toy"
            assert engine.complete("x", Sampling(max_tokens=5, seed=0)).text() == "The q"
            engine.close()


def test_chat_finds_its_server_behind_a_dead_proxy(monkeypatch, in_thread):
    for name in NAMES:
        monkeypatch.setenv(name, DEAD)
    with in_thread() as (url, _):
        result = CliRunner().invoke(app, ["chat", "--model", url, "--prompt", "Hello", "--max-tokens", "4"])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.strip()) >= 3


class Proxy(BaseHTTPRequestHandler):
    """Notes what it is asked for, and refuses it."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(418)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("NotingProxy", (Proxy,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("exceptions", "through_proxy"), [("", True), ("models.invalid", False), ("*", False)]
)
def test_others_go_by_the_environment(exceptions, through_proxy, monkeypatch, proxy):
    url, asked = proxy
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.setenv("no_proxy", exceptions)
    engine = OpenAIEngine("http://models.invalid:8080", ClientOptions(timeout_s=5))
    with pytest.raises(EngineError, match="refused the request" if through_proxy else "no server answers"):
        _ = engine.facts
    engine.close()
    assert asked == (["http://models.invalid:8080/v1/models"] if through_proxy else [])
