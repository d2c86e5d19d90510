"""Engine bitnetcpp: the llama-server of a build of the user's own, here a small program in its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from processes import ends_within
from typer.testing import CliRunner

from wf_formats.errors import RequestError
from wrinklefree_inference import EngineError, Sampling
from wrinklefree_inference.bitnetcpp.engine import BitnetCppEngine
from wrinklefree_inference.bitnetcpp.program import find_program
from wrinklefree_inference.bitnetcpp.server import start_server
from wrinklefree_inference.cli import app
from wrinklefree_inference.kept.server import KeptServer
from wrinklefree_inference.options import BitnetCppOptions, BitnetCppServerOptions, ListenOptions

SERVER = """#!{python} -IS
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
seen = dict(arguments=sys.argv[1:], key=os.environ.get("LLAMA_API_KEY"), pid=os.getpid())
with open({seen!r}, "w") as file:
    json.dump(seen, file)
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if {fails}:
    sys.exit("error: unknown model architecture: 'colour \\x1b[31m'")
begin = time.monotonic()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status = 503 if time.monotonic() - begin < 0.2 else 200
        model = dict(id="toy", meta=dict(n_params=7))
        self.answer(status, "application/json", json.dumps(dict(data=[model])))
    def do_POST(self):
        if self.headers["Authorization"] != "Bearer " + str(seen["key"]):
            return self.answer(401, "application/json", "{{}}")
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        choice = dict(delta=dict(content=asked["messages"][-1]["content"].upper()), finish_reason="stop")
        events = json.dumps(dict(choices=[choice])), "[DONE]"
        self.answer(200, "text/event-stream", "".join(f"data: {{event}}\\n\\n" for event in events))
    def answer(self, status, kind, text):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass
HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


class Build:
    """A folder with a program in the place of llama-server, and what the program saw when it was started."""

    def __init__(self, folder: Path, fails: bool = False) -> None:
        self.folder = folder
        self.program = folder / "build" / "bin" / "llama-server"
        self.program.parent.mkdir(parents=True)
        self.seen_file = folder / "seen.json"
        text = SERVER.format(python=sys.executable, seen=str(self.seen_file), fails=fails)
        self.program.write_text(text)
        self.program.chmod(0o755)

    @property
    def seen(self) -> dict:
        return json.loads(self.seen_file.read_text())

    def has_ended(self) -> bool:
        """Whether the server is gone, within some seconds."""
        return ends_within(self.seen["pid"], 20)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path / "a build")


def test_chat_and_the_end(build: Build, ternary_gguf: Path):
    """On loopback alone, with a key that stands in no command line; nothing is left behind."""
    with BitnetCppEngine(ternary_gguf, BitnetCppOptions(64, 1, build.folder)) as engine:
        assert engine.chat([{"role": "user", "content": "hi"}], Sampling()).text() == "HI"
        assert engine.facts.num_parameters == 7
        assert engine.facts.size_bytes == ternary_gguf.stat().st_size
        seen = build.seen
    arguments = dict(zip(seen["arguments"][::2], seen["arguments"][1::2], strict=False))
    assert arguments["--model"] == str(ternary_gguf)
    assert arguments["--host"] == "127.0.0.1"
    assert (arguments["--ctx-size"], arguments["--threads"], arguments["--n-gpu-layers"]) == ("64", "1", "0")
    assert len(seen["key"]) > 16
    assert seen["key"] not in " ".join(seen["arguments"])
    assert build.has_ended()
    with pytest.raises(EngineError, match="is closed"):
        engine.chat([{"role": "user", "content": "hi"}], Sampling())


def test_a_server_that_ends_tells_why(tmp_path: Path, ternary_gguf: Path):
    build = Build(tmp_path / "b", fails=True)
    result = CliRunner().invoke(
        app, f"chat --model {ternary_gguf} --engine bitnetcpp --bitnetcpp {build.program} --prompt hi"
    )
    assert result.exit_code == 1
    assert "the server of bitnet.cpp ended with exit code 1" in result.stderr
    assert r"unknown model architecture: 'colour \x1b[31m'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def serve(build: Build, model: Path, *options: str) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--engine", "bitnetcpp", *options]
    process = subprocess.Popen(
        [*command, "--model", str(model), "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "WF_BITNETCPP": str(build.folder)},
    )
    line = process.stdout.readline()
    assert " at " in line, process.stderr.read()
    return process, line.split(" at ")[1].split(" ")[0]


def test_serve_until_a_signal(build: Build, ternary_gguf: Path):
    options = ("--api-key", "a-secret", "--parallel", "3", "--context", "64", "--model-id", "mine")
    process, url = serve(build, ternary_gguf, *options)
    with process:
        asked = {"messages": [{"role": "user", "content": "hi"}]}
        answers = [
            httpx.post(f"{url}/chat/completions", json=asked, headers={"Authorization": f"Bearer {key}"})
            for key in ("another", "a-secret")
        ]
        assert [answer.status_code for answer in answers] == [401, 200]
        arguments = " ".join(build.seen["arguments"])
        assert "--alias mine" in arguments
        assert "--ctx-size 192 --parallel 3" in arguments
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert build.has_ended()


def test_the_server_ends_with_who_started_it(build: Build, ternary_gguf: Path):
    process, _ = serve(build, ternary_gguf)
    with process:
        process.kill()
    assert build.has_ended()


def _until_it_ends(server: KeptServer) -> None:
    while True:
        server.check()
        time.sleep(0.01)


def test_a_lost_server_is_told(build: Build, ternary_gguf: Path):
    options = BitnetCppServerOptions(
        ternary_gguf, ListenOptions(port=0), BitnetCppOptions(64, 1, build.folder)
    )
    server = start_server(options)
    try:
        server.check()
        os.kill(build.seen["pid"], signal.SIGKILL)
        assert build.has_ended()
        with pytest.raises(EngineError, match="ended with exit code 137: it said nothing"):
            _until_it_ends(server)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "build it, and say where with --bitnetcpp FOLDER or $WF_BITNETCPP"),
        ("--bitnetcpp /nowhere", "there is no /nowhere; build bitnet.cpp there first"),
        ("--bitnetcpp /usr", "there is no /usr/build/bin/llama-server or /usr/bin/llama-server or"),
        ("--bitnetcpp /etc/passwd", "/etc/passwd is no program that can be run"),
        ("--adapter x.gguf", "--adapter has no effect with --engine bitnetcpp"),
    ],
)
@pytest.mark.parametrize("command", ["chat --prompt x", "serve --port 0"])
def test_what_is_missing_is_a_wrong_request(command, options, message, ternary_gguf, monkeypatch):
    monkeypatch.delenv("WF_BITNETCPP", raising=False)
    result = CliRunner().invoke(app, f"{command} --engine bitnetcpp --model {ternary_gguf} {options}")
    assert result.exit_code == 2, result.exception
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("engine", ["llamacpp", "bitnetcpp"])
@pytest.mark.parametrize("command", ["chat --prompt x", "serve --port 0"])
def test_a_block_diffusion_model_is_refused(command, engine, build: Build, diffusion_files_of, monkeypatch):
    monkeypatch.setenv("WF_BITNETCPP", str(build.folder))
    model, name = diffusion_files_of["gguf"], engine.replace("cpp", ".cpp")
    result = CliRunner().invoke(app, f"{command} --engine {engine} --model {model}")
    assert result.exit_code == 2, result.exception
    assert (
        f"{model} is a block-diffusion model (blocks of 8 tokens), which {name} would misread"
        in result.stderr
    )
    assert "--engine native" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_program_is_found_where_builds_put_it(build: Build):
    for given in (build.folder, build.folder / "build", build.program.parent, build.program):
        assert find_program(given) == build.program
    with pytest.raises(RequestError, match="not part of WrinkleFree"):
        find_program(None)
