"""The command as users start it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from wf_formats.digests import model_sha256
from wrinklefree_eval.evaluate import app
from wrinklefree_eval.results import show

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
    assert found["model"]["sha256"] == model_sha256(path)
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
    ("arguments", "message", "code"),
    [
        ("--model-path /nowhere --text x.txt", "there is no model at /nowhere", None),
        ("--model-path /nowhere", "nothing to measure", 2),
        ("--model-path {gguf} --text /nowhere.txt --threads 1", "no text file /nowhere.txt", 2),
        ("--model-path {gguf} --text {folder}/a.csv --threads 1", "of no known kind", 2),
        ("--model-path {gguf} --text {damaged} --threads 1", "a.jsonl, line 2: damaged record", 1),
        ("--model-path {gguf} --text {folder}/half.jsonl --threads 1", "line 1: .*half a character", 1),
        ("--model-path= --text {folder}/empty.txt", "--model-path is empty: give a path", 2),
        ("--model-path {gguf} --text=", "--text is empty: give a path", 2),
        ("--model-path {gguf} --text {folder}/empty.txt --threads 1", "nothing to score", 1),
        ("--model-path {gguf} --text {text} --context 9000", "knows 8192 positions", None),
        ("--model-path {gguf} --text {text} --context 64 --stride 64", "stride must be in", 2),
        (
            "--model-path {gguf} --text {text} --output {folder}",
            "is not written: it is a folder; give the name of a file",
            2,
        ),
        ("--model-path {gguf} --tasks nope --data-dir {text}", "has no task 'nope'", 2),
        ("--model-path {gguf} --tasks piqa --data-dir {folder}", "validation.jsonl.gz, which is missing", 2),
        (
            "--model-path {gguf} --tasks bad --tasks-dir {folder}",
            "bad.yaml is no task file|has no task 'bad'",
            None,
        ),
        (
            "--model-path {gguf} --tasks piqa --data-dir {folder}/data --threads 1",
            "damaged gzip data after line 0",
            1,
        ),
    ],
)
def test_errors_are_one_line(
    arguments: str, message: str, code: int | None, small_gguf: Path, text_file: Path, tmp_path: Path
):
    damaged = tmp_path / "a.jsonl"
    damaged.write_text('{"text": "x y z"}\n{')
    for name, content in {
        "a.csv": "x",
        "half.jsonl": r'{"text": "a \ud800 b"}',
        "empty.txt": "",
        "bad.yaml": "task: [",
        "data/piqa/validation.jsonl.gz": "no gzip",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    places = {"gguf": small_gguf, "text": text_file, "damaged": damaged, "folder": tmp_path}
    result = run(app, arguments.format(**places))
    assert result.exit_code == code or (code is None and result.exit_code in (1, 2)), result.output
    (line,) = (line for line in result.stderr.strip().splitlines() if "error: " in line)
    assert re.search(message, line)
    if "--tasks" not in arguments:  # `datasets` logs beside
        assert len(result.stderr.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from wrinklefree_eval.evaluate import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "heavy = {'torch', 'transformers', 'lm_eval', 'xllamacpp', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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


def test_names_of_others_do_not_steer_the_terminal(capsys):
    model = {"name": "a\x1b[2J[/b]", "kind": "GGUF", "num_parameters": 1, "size_bytes": 1}
    show({"model": model, "perplexity": None, "tasks": None}, Console())
    assert r"a\x1b[2J[/b] (GGUF" in capsys.readouterr().out
