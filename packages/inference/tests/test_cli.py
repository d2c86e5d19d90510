"""The commands as users start them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wrinklefree_inference.cli import app

run = CliRunner().invoke


ONE_ANSWER = "--prompt Hello --max-tokens 6 --temperature 0 --threads 1 --context 256"


def test_one_answer_of_the_native_engine(ternary_gguf: Path):
    result = run(app, f"chat --model {ternary_gguf} {ONE_ANSWER}")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "two-layers" in result.stderr
    assert "256 tokens" in result.stderr
    assert "tokens/s" in result.stderr


def test_a_dense_file_is_for_llama_cpp_by_name(packaged_gguf: Path):
    refused = run(app, f"chat --model {packaged_gguf} {ONE_ANSWER}")
    assert refused.exit_code == 1
    assert "is not ternary" in refused.stderr
    assert "convert and train the model first" in refused.stderr
    assert refused.stderr.strip().endswith("--engine llamacpp")
    result = run(app, f"chat --model {packaged_gguf} --engine llamacpp {ONE_ANSWER}")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "134.5 million" in result.stderr
    assert "tokens/s" in result.stderr


def test_conversation_with_a_server(server_url: str):
    result = run(
        app,
        ["chat", "--model", server_url, "--max-tokens", "4", "--system", "Be brief."],
        input="Hello\n/clear\nAgain\n/quit\nnever read\n",
    )
    assert result.exit_code == 0, result.output
    assert result.stderr.count("tokens/s") == 2
    assert "(forgotten)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "--model", "/nowhere/x.gguf"], "there is no file or folder /nowhere/x.gguf"),
        (["chat", "--model", "/nowhere/x.gguf", "--engine", "llamacpp"], "there is no file /nowhere/x.gguf"),
        (
            ["chat", "--model", "http://127.0.0.1:9", "--context", "64", "--threads", "1"],
            "--context and --threads have no effect",
        ),
        (["chat", "--model", "model.bin"], "no engine recognises 'model.bin'"),
        (["chat", "--model", "http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
        (
            ["serve", "--model", "/nowhere/x.gguf", "--port", "0"],
            "there is no file or folder /nowhere/x.gguf",
        ),
        (["serve", "--model", "x.gguf", "--host", "0.0.0.0"], "set an API key"),
        (["serve", "--model", "x.gguf", "--web-ui"], "--web-ui has no effect with --engine native"),
        (["serve", "--model", "http://127.0.0.1:9"], "say --engine openai"),
        (["serve", "--model", "x.gguf", "--api-key", "abc"], "API key 0 must have 4"),
        (["serve", "--engine", "openai", "--model", "ftp://x", "--port", "0"], "must begin with http"),
        (
            ["serve", "--engine", "llamacpp", "--model", "/nowhere/x.gguf"],
            "there is no file /nowhere/x.gguf",
        ),
        (
            ["serve", "--engine", "llamacpp", "--model", "x.gguf", "--host", "0.0.0.0"],
            "set an API key",
        ),
        (
            ["serve", "--engine", "llamacpp", "--model", "x", "--api-key", "a-key", "--api-key", "b-key"],
            "takes one API key",
        ),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str):
    result = run(app, arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from wrinklefree_inference.cli import app;"
        "assert CliRunner().invoke(app, ['chat', '--help']).exit_code == 0;"
        "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0;"
        "assert CliRunner().invoke(app, ['bench', '--help']).exit_code == 0;"
        "heavy = {'torch', 'xllamacpp', 'openai', 'numpy', 'streamlit', 'fastapi', 'ternary_kernels'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
