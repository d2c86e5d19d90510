"""The commands as users start them."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from wf_formats.boundary import BUG_NOTE
from wrinklefree_inference import application
from wrinklefree_inference.application import COMMANDS
from wrinklefree_inference.cli import app
from wrinklefree_inference.commands import serving

run = CliRunner().invoke


pytestmark = pytest.mark.usefixtures("own_log")
ONE_ANSWER = "--prompt Hello --max-tokens 6 --temperature 0 --threads 1 --context 256"


def test_one_answer_of_the_native_engine(ternary_gguf: Path):
    result = run(app, f"chat --model {ternary_gguf} {ONE_ANSWER}")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "two-layers" in result.stderr
    assert "256 tokens" in result.stderr
    assert "tokens, " in result.stderr


def test_a_dense_file_is_for_llama_cpp_by_name(small_gguf: Path, packaged_gguf: Path):
    refused = run(app, f"chat --model {small_gguf} {ONE_ANSWER}")
    assert refused.exit_code == 1
    assert "is not ternary" in refused.stderr
    assert "convert and train the model first" in refused.stderr
    assert refused.stderr.strip().endswith("--engine llamacpp")
    result = run(app, f"chat --model {packaged_gguf} --engine llamacpp {ONE_ANSWER}")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "134.5 million" in result.stderr
    assert "tokens, " in result.stderr


def test_conversation_with_a_server(server_url: str):
    result = run(
        app,
        ["chat", "--model", server_url, "--max-tokens", "4", "--system", "Be brief."],
        input="Hello\n/clear\nAgain\n/quit\nnever read\n",
    )
    assert result.exit_code == 0, result.output
    assert result.stderr.count(", first after ") == 2
    assert "(forgotten)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["chat", "--model", "/nowhere/x.gguf"], 1, "there is no file or folder /nowhere/x.gguf"),
        (
            ["chat", "--model", "/nowhere/x.gguf", "--engine", "llamacpp"],
            1,
            "there is no file /nowhere/x.gguf",
        ),
        (
            ["chat", "--model", "http://127.0.0.1:9", "--context", "64", "--threads", "1"],
            2,
            "--context and --threads have no effect",
        ),
        (["chat", "--model", "model.bin"], 2, "no engine recognises 'model.bin'"),
        (["chat", "--model", "x.gguf", "--engine", "another"], 2, "unknown engine 'another'"),
        (["chat", "--model", "http://127.0.0.1:9"], 1, "no server answers at http://127.0.0.1:9"),
        (["chat", "--model", "http://127.0.0.1:99999"], 2, "'http://127.0.0.1:99999' is not a server's URL"),
        (["chat", "--model", "http://[::1"], 2, "'http://[::1' is not a server's URL"),
        (["chat", "--model", "http://"], 2, "'http://' is not a server's URL"),
        (["chat", "--model", "http://127.0.0.1:9", "--api-key", "ключ"], 2, "must be printable ASCII"),
        (["chat", "--model", "http://127.0.0.1:9", "--system", "a\udcff"], 2, "--system is not UTF-8"),
        (
            ["serve", "--model", "/nowhere/x.gguf", "--port", "0"],
            1,
            "there is no file or folder /nowhere/x.gguf",
        ),
        (["serve", "--model", "x.gguf", "--engine", "another"], 2, "unknown engine 'another'"),
        (["serve", "--model", "x.gguf", "--host", "0.0.0.0"], 2, "set an API key"),
        (["serve", "--model", "x.gguf", "--web-ui"], 2, "--web-ui has no effect with --engine native"),
        (["serve", "--model", "http://127.0.0.1:9"], 2, "say --engine openai"),
        (["serve", "--model", "x.gguf", "--api-key", "abc"], 2, "API key 0 must have 4"),
        (["serve", "--model", "x.gguf", "--api-key-file", "/nowhere/keys"], 1, "/nowhere/keys: No such file"),
        (["serve", "--model", "x.gguf", "--api-key-file", sys.executable], 2, "is not text in UTF-8 (byte "),
        (["serve", "--model", "x.gguf", "--kv-cache-gb", "1", "--kv-cache-tokens", "64"], 2, "not both"),
        (["serve", "--engine", "openai", "--model", "ftp://x", "--port", "0"], 2, "must begin with http"),
        (["serve", "--engine", "openai", "--model", "http://x:y", "--port", "0"], 2, "is none"),
        (
            ["serve", "--engine", "llamacpp", "--model", "/nowhere/x.gguf"],
            1,
            "there is no file /nowhere/x.gguf",
        ),
        (
            ["serve", "--engine", "llamacpp", "--model", "x.gguf", "--host", "0.0.0.0"],
            2,
            "set an API key",
        ),
        (
            ["serve", "--engine", "llamacpp", "--model", "x", "--api-key", "a-key", "--api-key", "b-key"],
            2,
            "takes one API key",
        ),
        (["bench", "--model", "/nowhere/x.gguf"], 2, "there is no file or folder /nowhere/x.gguf"),
        (["bench", "--model", ".", "--engine", "vllm"], 2, "--engine takes native or llamacpp"),
        (["bench", "--model", ".", "--batch", "0"], 2, "--batch takes numbers from 1 to 1024"),
    ],
)
def test_errors_are_one_line(arguments: list[str], code: int, message: str):
    result = run(app, arguments)
    assert result.exit_code == code, result.exception
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_input_that_is_not_text(server_url: str):
    result = run(app, ["chat", "--model", server_url, "--max-tokens", "2"], input=b"caf\xe9\n")
    assert result.exit_code == 2, result.exception
    assert "the input is not UTF-8" in result.stderr.splitlines()[-1]


def test_help_names_every_limit_of_the_server():
    wide = {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    shown = run(app, ["serve", "--help"], env=wide).stdout
    for name in ("header-timeout", "body-timeout", "keep-alive-timeout", "write-timeout"):
        assert f"--{name}" in shown
    assert "--max-connections-per-client" in shown
    assert "command lines can be read by all" in shown


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["serve", "--help"], ["serve"]),
        ([], COMMANDS),
        (["--help", "serve"], COMMANDS),
        (["nonsense"], COMMANDS),
    ],
)
def test_a_command_that_is_named_first_is_the_only_one(arguments, names, monkeypatch):
    made = []

    def record(given):
        made.append(given)
        return lambda prog_name: made.append(prog_name)

    monkeypatch.setattr(application, "application", record)
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    application.main("wf")
    assert made == [names, "wf"]


def test_a_command_alone_answers_as_one_of_several():
    for arguments in (["serve", "--help"], ["serve", "--nonsense"]):
        alone, among = (
            CliRunner().invoke(app_of, arguments) for app_of in (application.application(["serve"]), app)
        )
        assert (alone.exit_code, alone.output) == (among.exit_code, among.output)


def test_the_collector_rests_for_imports_alone():
    def fail_inside():
        with serving._without_collector():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fail_inside()
    assert gc.isenabled()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from wrinklefree_inference.application import application; application(['serve']);"
        "others = {f'wrinklefree_inference.commands.{name}' for name in ('bench', 'gateway', 'chat', 'run')};"
        "others &= set(sys.modules);"
        "assert not others, others;"
        "from typer.testing import CliRunner; from wrinklefree_inference.cli import app;"
        "assert CliRunner().invoke(app, ['chat', '--help']).exit_code == 0;"
        "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0;"
        "assert CliRunner().invoke(app, ['bench', '--help']).exit_code == 0;"
        "heavy = {'torch', 'xllamacpp', 'openai', 'numpy', 'streamlit', 'starlette', 'ternary_kernels'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy;"
        # A model loads before the HTTP server is imported, and its address is taken before that.
        "import wrinklefree_inference.commands.serving;"
        "early = {'uvicorn', 'starlette'} & set(sys.modules);"
        "assert not early, early;"
        # What few clients ask for is imported when one does.
        "import wrinklefree_inference.http.app;"
        "rare = {'fastapi', 'httpx', 'torch', 'llguidance', 'wrinklefree_inference.http.ollama',"
        " 'wrinklefree_inference.http.responses_api', 'wrinklefree_inference.http.openapi'};"
        "rare &= set(sys.modules);"
        "assert not rare, rare"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wrinklefree_inference.commands.chat.open_engine", interrupted)
    result = run(app, ["chat", "--model", "x.gguf"])
    assert (result.exit_code, result.stderr.strip()) == (130, "stopped")


def test_a_bug_says_that_it_is_ours(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("wrinklefree_inference.commands.chat.open_engine", broken)
    result = run(app, ["chat", "--model", "x.gguf"])
    assert isinstance(result.exception, KeyError)
    assert result.exception.__notes__ == [BUG_NOTE]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"# nothing\n"])
def test_a_file_without_keys(content: bytes, tmp_path: Path):
    (tmp_path / "keys").write_bytes(content)
    result = run(app, ["serve", "--model", "x.gguf", "--port", "0", "--api-key-file", str(tmp_path / "keys")])
    assert result.exit_code == 2
    assert "one key a line" in result.stderr or "write one a line" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["chat", "run", "serve"])
def test_without_a_model_the_commands_that_make_one_are_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = run(app, command)
    assert result.exit_code == 2
    assert all(made in result.stderr for made in ("wf quickstart", "wf export", "wf pull"))


def test_without_a_model_the_newest_export_answers(
    ternary_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    newest = tmp_path / "outputs" / "mine" / "newest.gguf"
    newest.parent.mkdir(parents=True)
    newest.symlink_to(ternary_gguf)
    (tmp_path / "older.gguf").write_bytes(b"never opened")
    os.utime(tmp_path / "older.gguf", (1, 1))
    monkeypatch.chdir(tmp_path)
    result = run(app, f"chat {ONE_ANSWER}")
    assert result.exit_code == 0, result.output
    assert "model: outputs/mine/newest.gguf, the newest here (`wf list` shows all)" in result.stderr
    assert "newest" not in result.stdout


def _damaged(folder: Path, model: Path) -> list[Path]:
    """GGUF files and a folder that were not written to their end, the newest last."""
    cut, zeros, folder_of_none = folder / "cut.gguf", folder / "zeros.gguf", folder / "hf"
    without_a_shard, without_tokenizer = folder / "shards", folder / "words"
    for part in (without_a_shard, without_tokenizer):
        part.mkdir()
        (part / "config.json").write_text("{}")
        (part / "wrinklefree.json").write_text('{"export": {}}')
    tensors = {"a": np.zeros(1, np.float32)}
    save_file(tensors, without_a_shard / "model-00001-of-00002.safetensors")
    save_file(tensors, without_tokenizer / "model.safetensors")
    (without_a_shard / "tokenizer.json").write_text("{}")
    named = {name: f"model-{name}-of-00002.safetensors" for name in ("00001", "00002")}
    (without_a_shard / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    cut.write_bytes(model.read_bytes()[:-4096])
    zeros.write_bytes(bytes(4096))
    folder_of_none.mkdir()
    (folder_of_none / "config.json").write_text("{}")
    (folder_of_none / "wrinklefree.json").write_text('{"export": {}}')
    (folder_of_none / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    damaged = [cut, zeros, folder_of_none, without_a_shard, without_tokenizer]
    for hours, path in enumerate(damaged):
        time_s = time.time() + 3600 * (hours + 1)
        os.utime(path / "wrinklefree.json" if path.is_dir() else path, (time_s, time_s))
    return damaged


def test_damaged_exports_are_skipped_by_name(
    ternary_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    damaged = _damaged(outputs, ternary_gguf)
    (outputs / "whole.gguf").symlink_to(ternary_gguf)
    monkeypatch.chdir(tmp_path)
    result = run(app, f"chat {ONE_ANSWER}")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    for path, line in zip(reversed(damaged), lines, strict=False):
        assert line.startswith(f"skipped: {path.relative_to(tmp_path)} cannot be read: "), lines
    assert lines[5].startswith("model: outputs/whole.gguf, the newest here")
    (outputs / "whole.gguf").unlink()
    for command in (f"chat {ONE_ANSWER}", "serve", "run"):
        result = run(app, command)
        assert result.exit_code == 2
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: no export here can be read (5 skipped): `wf quickstart`")


def test_run_takes_a_pulled_model_by_name_and_the_question(
    ternary_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "outputs" / "models" / "me" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.gguf").symlink_to(ternary_gguf)
    monkeypatch.chdir(tmp_path)
    options = ["--max-tokens", "6", "--temperature", "0", "--threads", "1", "--context", "256"]
    result = run(app, ["run", "me/mine", "Hello", *options])
    assert result.exit_code == 0, result.output
    assert (
        result.stdout
        == run(app, ["chat", "--model", str(ternary_gguf), "--prompt", "Hello", *options]).stdout
    )


def test_passing_on_needs_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = run(app, "serve --engine openai")
    assert result.exit_code == 2
    assert "give the server's URL with --model" in result.stderr
