"""The command as users start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wrinklefree_eval.evaluate import app

run = CliRunner().invoke


@pytest.mark.parametrize("kind", ["checkpoint", "hf", "gguf"])
def test_every_kind_gives_the_same_report(
    kind: str, request: pytest.FixtureRequest, text_file: Path, data_dir: Path, tmp_path: Path
):
    path = request.getfixturevalue(f"small_{kind}")
    output = tmp_path / "new" / "results.json"
    result = run(
        app,
        f"--model-path {path} --text {text_file} --text {text_file} --context 64 --max-tokens 40 "
        f"--tasks piqa --data-dir {data_dir} --limit 2 --threads 1 --output {output}",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    assert found["model"]["kind"] == kind
    assert found["model"]["num_parameters"] > 30e6
    assert found["model"]["size_bytes"] > 1e8
    assert [row["num_tokens"] for row in found["perplexity"]] == [40, 40]
    assert found["perplexity"][0]["perplexity"] > 1
    assert found["perplexity"][0]["tokens_per_second"] > 0
    assert found["tasks"]["piqa"]["num_samples"] == 2
    assert set(found["environment"]) >= {"lm-eval", "torch", "transformers", "xllamacpp"}
    assert "piqa" in result.stdout
    assert "Perplexity" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model-path /nowhere --text x.txt", "there is no model at /nowhere"),
        ("--model-path /nowhere", "nothing to measure"),
        ("--model-path {gguf} --text /nowhere.txt --threads 1", "no text file /nowhere.txt"),
        ("--model-path {gguf} --text {damaged} --threads 1", "a.jsonl, line 2: damaged record"),
        ("--model-path {gguf} --text {text} --context 9000", "knows 8192 positions"),
        ("--model-path {gguf} --tasks nope --data-dir {text}", "has no task 'nope'"),
    ],
)
def test_errors_are_one_line(arguments: str, message: str, small_gguf: Path, text_file: Path, tmp_path: Path):
    damaged = tmp_path / "a.jsonl"
    damaged.write_text('{"text": "x y z"}\n{')
    result = run(app, arguments.format(gguf=small_gguf, text=text_file, damaged=damaged))
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from wrinklefree_eval.evaluate import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "heavy = {'torch', 'transformers', 'lm_eval', 'xllamacpp', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def strange_targets(tmp_path: Path) -> dict[str, Path]:
    """Names of what is no earlier report."""
    (tmp_path / "thesis.txt").write_text("keep")
    (tmp_path / "other.json").write_text('{"model": 1}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "thesis.txt")
    names = ("thesis.txt", "other.json", "list.json", "folder", "link")
    return {name: tmp_path / name for name in names} | {"device": Path(os.devnull)}


@pytest.mark.parametrize("name", ["thesis.txt", "other.json", "list.json", "folder", "link", "device"])
def test_a_target_that_is_no_report_is_refused_before_the_model_is_opened(
    name: str, strange_targets: dict[str, Path], tmp_path: Path
):
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    target = str(strange_targets[name])
    result = run(app, ["--model-path", "/nowhere", "--text", "x.txt", "--output", target])
    assert result.exit_code == 2
    assert target in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_earlier_report_is_replaced(small_gguf: Path, text_file: Path, tmp_path: Path):
    output = tmp_path / "results.json"
    arguments = f"--model-path {small_gguf} --text {text_file} --context 64 --max-tokens 8 --threads 1"
    for _ in range(2):
        assert run(app, f"{arguments} --output {output}").exit_code == 0
    assert json.loads(output.read_text())["model"]["kind"] == "gguf"
