"""The Streamlit chat against a real server: through AppTest, and once in Chromium."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from streamlit.testing.v1 import AppTest

APP = Path(__file__).parents[1] / "demo" / "serve_sglang.py"
CHROMIUM = Path("/usr/bin/chromium")


def open_app(monkeypatch: pytest.MonkeyPatch, url: str) -> AppTest:
    monkeypatch.setenv("WF_SERVER_URL", url)
    return AppTest.from_file(str(APP), default_timeout=60).run()


def test_facts_of_llama_cpp(server_url: str, monkeypatch: pytest.MonkeyPatch):
    app = open_app(monkeypatch, server_url)
    assert not app.exception
    facts = app.sidebar.markdown[0].value
    assert "SmolLM2-135M-Instruct" in facts
    assert "134.5 million" in facts
    assert "1,024 tokens" in facts


@pytest.fixture(scope="module")
def native_url(serve: Callable[..., tuple[object, str]], ternary_gguf: Path) -> str:
    """A native server of a random model, without a key."""
    _, url = serve("--model", str(ternary_gguf), "--context", "512", "--threads", "1")
    return url.removesuffix("/v1")


def test_chat_with_a_native_server(native_url: str, monkeypatch: pytest.MonkeyPatch):
    app = open_app(monkeypatch, native_url)
    assert not app.exception
    facts = app.sidebar.markdown[0].value
    assert "two-layers" in facts
    assert "512 tokens" in facts

    app.sidebar.slider[0].set_value(0.0)
    app.sidebar.slider[2].set_value(8)
    app.chat_input[0].set_value("Say hi.").run()
    assert not app.exception
    assert [m.name for m in app.chat_message] == ["user", "assistant"]
    answer = app.chat_message[1]
    assert answer.markdown[0].value.strip()
    assert re.search(r"\d tokens, .*first after", answer.caption[0].value)

    app.chat_input[0].set_value("And again?").run()
    assert [m.name for m in app.chat_message] == ["user", "assistant"] * 2
    assert app.chat_message[1].markdown[0].value == answer.markdown[0].value

    app.sidebar.button[0].click().run()
    assert len(app.chat_message) == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9", "no server answers at http://127.0.0.1:9"),
        ("http://", "'http://' is not a server's URL"),
    ],
)
def test_no_server_is_explained(url: str, message: str, monkeypatch: pytest.MonkeyPatch):
    app = open_app(monkeypatch, url)
    assert not app.exception
    assert message in app.error[0].value
    assert not app.chat_input


def test_a_refused_request_keeps_the_page(native_url: str, monkeypatch: pytest.MonkeyPatch):
    app = open_app(monkeypatch, native_url)
    app.chat_input[0].set_value("too long " * 2000).run()
    assert not app.exception
    assert "exceed" in app.error[0].value


@pytest.fixture
def page_url(server_url: str) -> Iterator[str]:
    """The chat as a process on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "server.headless": "true",
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "server.fileWatcherType": "none",
        "client.toolbarMode": "minimal",
        "browser.gatherUsageStats": "false",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(APP), *flags],
        env=os.environ | {"WF_SERVER_URL": server_url},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    _wait_for(f"{url}/_stcore/health")
    yield url
    process.terminate()
    process.wait(timeout=20)


def _wait_for(url: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.ConnectError:
            time.sleep(0.2)
    raise TimeoutError(url)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")
def test_in_chromium(page_url: str, tmp_path: Path):
    """One answer as a user sees it; the picture is left at $WF_CHAT_SCREENSHOT if that is set."""
    from playwright.sync_api import sync_playwright

    picture = Path(os.environ.get("WF_CHAT_SCREENSHOT", tmp_path / "chat.png"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.goto(page_url)
        box = page.get_by_test_id("stChatInputTextArea")
        box.fill("Why do people like to swim in the sea?")
        box.press("Enter")
        speed = page.get_by_text(re.compile(r"\d tokens, .*first after"))
        speed.wait_for(timeout=60_000)
        assert page.get_by_test_id("stChatMessage").count() == 2
        assert "134.5 million" in page.get_by_test_id("stSidebar").inner_text()
        assert not page.get_by_test_id("stAlert").count()
        page.screenshot(path=picture)
        browser.close()
    assert picture.stat().st_size > 10_000
