"""Engines vllm and sglang: environments of the user's own, here with a small server in theirs' place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from processes import ends_within
from safetensors.torch import save_file
from typer.testing import CliRunner

from wf_formats.errors import RequestError
from wf_formats.families import family_of
from wf_formats.models.hf_compressed import quantization_config
from wf_formats.models.hf_config import read_config, read_quantization
from wf_formats.models.hf_tensors import expected_tensors
from wrinklefree_inference.cli import app
from wrinklefree_inference.options import StockOptions
from wrinklefree_inference.stock.model import cache_of, check_folder
from wrinklefree_inference.stock.programs import PLUGIN, SGLANG, VLLM
from wrinklefree_inference.stock.server import reason_of

SERVER = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
helper = subprocess.Popen(["sleep", "600"])  # both compute in further processes
arguments = " ".join(sys.argv[1:]).replace("=", " ").split(" ")
options = dict(zip(arguments[::2], arguments[1::2]))
model = options.get("--model") or options["--model-path"]
key = os.environ.get("VLLM_API_KEY") or os.environ["WF_SGLANG_KEY"]
environment = dict(key=key, **{name: os.environ.get(name) for name in ("WF_API_KEY", "PYTHONPATH")})
seen = dict(arguments=arguments, environment=environment, pids=[os.getpid(), helper.pid])
with open(os.path.join(model, "seen.json"), "w") as file:
    json.dump(seen, file)
if "fails" in model:
    print("(EngineCore pid=7) ERROR 11-27 [core.py:9] ValueError: no room for the cache: give more")
    sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(json.dumps(dict(data=[dict(id=options["--served-model-name"])])))
    def do_POST(self):
        if self.headers["Authorization"] != "Bearer " + key:
            return self.answer("{}", 401)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["messages"][0]["content"] == "die":
            os.kill(os.getpid(), 9)
        self.answer(json.dumps(dict(choices=[dict(message=dict(content="HI"))])))
    def answer(self, text, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass
HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "quantization_config": quantization_config("group64"),
}
TOKEN_BYTES = 2 * 1 * 1 * 64 * 2
"""Key and value, one layer, one head of 64 numbers."""


def write_module(packages: Path, name: str) -> None:
    """The small server under a name, which it has in each program's environment."""
    *parents, module = name.split(".")
    folder = packages.joinpath(*parents)
    folder.mkdir(parents=True)
    (folder / f"{module}.py").write_text(SERVER)


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes environments, with what is asked for of vLLM and the plug-in."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*contents: str) -> Path:
        if contents not in made:
            folder = tmp_path_factory.mktemp("an environment") / "e"
            venv.create(folder, symlinks=True)
            (packages,) = folder.glob("lib/python*/site-packages")
            if "vllm" in contents:
                write_module(packages, VLLM.module)
            if "sglang" in contents:
                write_module(packages, "sglang.launch_server")
                write_module(packages, SGLANG.module)
            if "plugin" in contents:
                info = packages / "plugins-0.1.dist-info"
                info.mkdir()
                (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 0.1\n")
                groups = [f"[{program.entry_points}]\n{PLUGIN} = m:f\n" for program in (VLLM, SGLANG)]
                (info / "entry_points.txt").write_text("\n".join(groups))
            made[contents] = folder
        return made[contents]

    return make


@pytest.fixture(scope="module")
def environment(environments: Callable[..., Path]) -> Path:
    return environments("vllm", "sglang", "plugin")


def write_model(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    shapes, _ = expected_tensors(read_config(CONFIG), read_quantization(CONFIG), family_of("llama"), True)
    tensors = {name: torch.zeros(shape, dtype=_dtype(name)) for name, shape in shapes.items()}
    for name in [name for name in shapes if name.endswith("_shape")]:
        rows, words = shapes[name.replace("_shape", "_packed")]
        tensors[name] = torch.tensor([rows, 16 * words])
    save_file(tensors, folder / "model.safetensors")
    return folder


def _dtype(name: str) -> torch.dtype:
    return torch.int32 if name.endswith("_packed") else torch.float32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("folder") / "w2a8")


def has_ended(pid: int) -> bool:
    """Within some seconds."""
    return ends_within(pid, 30)


def serve(
    environment: Path, model: Path, *options: str, engine: str = "vllm"
) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--engine", engine, *options]
    process = subprocess.Popen(
        [*command, "--model", str(model), "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONUNBUFFERED": "1", f"WF_{engine.upper()}": str(environment), "WF_API_KEY": "a-secret"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("serving "), process.stderr.read()
    return process, line.split(" at ")[1].split(" ")[0]


def ask(url: str, text: str, key: str = "a-secret") -> httpx.Response:
    asked = {"messages": [{"role": "user", "content": text}]}
    return httpx.post(
        f"{url}/chat/completions", json=asked, headers={"Authorization": f"Bearer {key}"}, timeout=30
    )


@pytest.mark.parametrize(
    ("engine", "context", "max_running", "cache"),
    [
        ("vllm", "--max-model-len", "--max-num-seqs", ("--kv-cache-memory-bytes", 4 * 64 * TOKEN_BYTES)),
        ("sglang", "--context-length", "--max-running-requests", ("--max-total-tokens", 4 * 64)),
    ],
)
def test_serve_behind_our_keys_until_a_signal(
    engine: str, context: str, max_running: str, cache: tuple[str, int], environment: Path, model: Path
):
    options = ("--context", "64", "--max-running", "5", "--model-id", "mine")
    process, url = serve(environment, model, *options, engine=engine)
    with process:
        assert [ask(url, "hi", key).status_code for key in ("another", "a-secret")] == [401, 200]
        seen = json.loads((model / "seen.json").read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    arguments = dict(zip(seen["arguments"][::2], seen["arguments"][1::2], strict=False))
    key = seen["environment"].pop("key")
    assert len(key) > 16
    assert key not in " ".join(seen["arguments"])
    assert seen["environment"] == {"WF_API_KEY": None, "PYTHONPATH": None}
    assert arguments["--host"] == "127.0.0.1"
    assert arguments["--served-model-name"] == "mine"
    assert (arguments[context], arguments[max_running]) == ("64", "5")
    assert arguments["--dtype"] == "bfloat16"
    assert int(arguments[cache[0]]) == cache[1]
    assert all(map(has_ended, seen["pids"]))


def test_the_end_of_vllm_ends_the_command(environment: Path, model: Path):
    """And what vLLM started itself."""
    process, url = serve(environment, model)
    with process:
        assert ask(url, "die").status_code == 502
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert "the server of vLLM ended with exit code 137: it said nothing" in process.stderr.read()
    assert all(map(has_ended, json.loads((model / "seen.json").read_text())["pids"]))


def test_nothing_is_left_when_the_command_is_killed(environment: Path, model: Path):
    process, _ = serve(environment, model)
    with process:
        process.kill()
    assert all(map(has_ended, json.loads((model / "seen.json").read_text())["pids"]))


def refusal(*options: object, exit_code: int, engine: str = "vllm") -> str:
    command = ["serve", "--engine", engine, "--port", "0", *map(str, options)]
    result = CliRunner().invoke(app, command, env={"WF_VLLM": None, "WF_SGLANG": None})
    assert result.exit_code == exit_code, result.exception
    (line,) = [line for line in result.stderr.strip().splitlines() if not line.startswith("starting vLLM")]
    return line


def test_a_server_that_does_not_start_tells_why(environment: Path, tmp_path: Path, own_log: None):
    model = write_model(tmp_path / "fails")
    told = refusal("--vllm", environment, "--model", model, exit_code=1)
    assert told.endswith("ended with exit code 1: ValueError: no room for the cache: give more")
    assert all(map(has_ended, json.loads((model / "seen.json").read_text())["pids"]))


def test_an_environment_that_lacks_something_names_the_command(environments, model, tmp_path, own_log):
    make = "`sh packages/plugins/vllm/scripts/environment"
    for options, message in (
        ([], f"make one for it ({make} FOLDER`), and say where with --vllm FOLDER or $WF_VLLM"),
        (["--vllm", "/nowhere"], f"there is no /nowhere; {make} /nowhere` makes it"),
        (["--vllm", tmp_path], f"there is no {tmp_path}/bin/python; {make}"),
        (["--vllm", "/bin/true"], "/bin/true is no Python of an environment"),
        (["--vllm", environments()], f"vLLM is not installed there; {make} NEW`"),
        (["--vllm", environments("vllm")], "uv pip install --python "),
        (["--vllm", "/nowhere", "--kv-cache-tokens", "64"], "--kv-cache-tokens has no effect with --engine"),
    ):
        assert message in refusal(*options, "--model", model, exit_code=2)


def test_those_of_sglang_name_its_own(environments, model, own_log):
    make = "`sh packages/plugins/sglang/scripts/environment"
    for options, message in (
        ([], f"SGLang is not part of this environment: make one for it ({make} FOLDER`)"),
        (["--sglang", environments("vllm")], f"SGLang is not installed there; {make} NEW`"),
        (["--vllm", "/nowhere"], "--vllm has no effect with --engine"),
    ):
        assert message in refusal(*options, "--model", model, exit_code=2, engine="sglang")


MASTER = {"quant_method": "wrinklefree", "scheme": "group64"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": MASTER}, "export it first, by `wf export --checkpoint FOLDER"),
        ({"quantization_config": None}, "no packed ternary"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq' is not supported"),
        ({"dtype": "float8"}, "dtype is 'float8', not one of float32"),
        ({"architectures": None}, "does not name the model's class"),
        ({"num_hidden_layers": 2}, "model.layers.1."),
    ],
)
def test_another_kind_of_model_is_refused_at_once(environment, tmp_path, own_log, changes, message):
    model = write_model(tmp_path / "model", **changes)
    assert message in refusal("--vllm", environment, "--model", model, exit_code=1)
    assert not (model / "seen.json").exists()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_block_diffusion_model_is_refused(environments, diffusion_files_of, own_log, engine):
    given = (f"--{engine}", environments(engine, "plugin"), "--model", diffusion_files_of["folder"])
    told = refusal(*given, exit_code=2, engine=engine)
    name = {"vllm": "vLLM", "sglang": "SGLang"}[engine]
    assert f"is a block-diffusion model (blocks of 8 tokens), which {name} would misread" in told
    assert "--engine native" in told


def test_four_bits_are_refused_for_sglang(environments, tmp_path, own_log):
    folder = write_model(tmp_path / "model", quantization_config=quantization_config("int4-group64"))
    told = refusal(
        "--sglang", environments("sglang", "plugin"), "--model", folder, exit_code=1, engine="sglang"
    )
    assert "weights of 4 bits: start it with `--engine vllm`" in told


def test_what_does_not_fit_the_model_is_a_wrong_request(environment, model, tmp_path, own_log):
    given = ("--vllm", environment, "--model")
    assert "the model's context is 128" in refusal(*given, model, "--context", 129, exit_code=2)
    with pytest.raises(RequestError, match="holds no context of 128 tokens"):
        cache_of(check_folder(model, VLLM), StockOptions(cache_gb=1e-5))
    assert "is not there" in refusal(*given, tmp_path / "no", exit_code=1)
    (tmp_path / "file.gguf").touch()
    assert "vLLM loads folders" in refusal(*given, tmp_path / "file.gguf", exit_code=1)


def test_the_reason_is_the_cause_and_not_what_follows_from_it():
    lines = [
        "(EngineCore pid=1) ERROR [core.py:1] Traceback (most recent call last):",
        "(EngineCore pid=1) ERROR [core.py:1] wf_formats.errors.LoadError: a scale is nan; export it again",
        "Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert reason_of(lines) == "wf_formats.errors.LoadError: a scale is nan; export it again"
    assert reason_of(["one", "an error of no kind", "two"]) == "an error of no kind"
    assert reason_of(["one", "two"]) == "one; two"
