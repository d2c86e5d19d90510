"""What an evaluation says of itself to `wf eval --cloud`: command, files that go along, what would stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from wrinklefree_eval import show
from wrinklefree_eval.evaluate import app

TASK = "task: mine\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
DATA = TASK + "dataset_kwargs: {data_files: {test: sub/mine.jsonl}}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models as far as they are looked into here, a text, tasks and their data."""
    for name, content in {
        "hf/config.json": "{}",
        "hf/model.safetensors": "x",
        "mine.gguf": "GGUF",
        "a.gguf": "GGUF",
        "wiki.txt": "some words",
        "tasks/mine.yaml": DATA,
        "tasks/helpers/words.py": "x = 1",
        "tasks/notes.md": "of mine",
        "tasks/.env": "TOKEN=1",
        "tasks/.venv/lib/a.py": "not mine",
        "data/sub/mine.jsonl": '{"a": 1}\n',
        "data/piqa/validation.jsonl.gz": "no gzip, but not asked for",
        "data/huge.bin": "not named by a task",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def describe(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["--describe", *arguments])


def described(*arguments: str) -> dict[str, Any]:
    done = describe(*arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_command_there_is_the_one_here_with_whole_paths(here: Path) -> None:
    found = described(
        "--text", "wiki.txt", "--model-path=hf", "--text=gs://b/t", "--limit", "5", "--kind", "hf"
    )
    assert found == {
        "label": "hf",
        "arguments": [
            *("--model-path", f"{here}/hf", "--text", f"{here}/wiki.txt", "--text", "gs://b/t"),
            *("--limit", "5", "--kind", "hf", "--output", "report.json"),
        ],
        "inputs": {f"{here}/hf": [], f"{here}/wiki.txt": [], "gs://b/t": []},
        "on_gpu": True,
    }


def test_of_tasks_their_files_go_and_the_data_that_they_name(here: Path) -> None:
    found = described(
        "--model-path", "hub:o/n", "--tasks", "mine", "--tasks-dir", "tasks", "--data-dir", "data"
    )
    assert found["inputs"] == {
        "hub:o/n": [],
        f"{here}/tasks": ["helpers/words.py", "mine.yaml"],
        f"{here}/data": ["sub/mine.jsonl"],
    }
    assert found["arguments"][-4:] == ["--output", "report.json", "--answers", "answers.jsonl"]
    (here / "tasks" / "sub").mkdir()
    (here / "tasks" / "sub" / "mine.jsonl").write_text('{"a": 1}\n')
    one = described(
        "--model-path", "hub:o/n", "--tasks", "mine", "--tasks-dir", "tasks", "--data-dir", "tasks"
    )
    assert one["inputs"][f"{here}/tasks"] == ["helpers/words.py", "mine.yaml", "sub/mine.jsonl"]


def test_our_own_tasks_are_there_already(here: Path, data_dir: Path) -> None:
    found = described("--model-path", "mine.gguf", "--tasks", "piqa", "--data-dir", str(data_dir))
    assert found["inputs"] == {f"{here}/mine.gguf": [], str(data_dir): ["piqa/validation.jsonl.gz"]}
    assert "--tasks-dir" not in found["arguments"]


def test_folders_of_tasks_that_are_not_asked_stay(here: Path) -> None:
    found = described(
        "--model-path", "hf", "--text", "wiki.txt", "--tasks-dir", "tasks", "--data-dir", "data"
    )
    assert set(found["inputs"]) == {f"{here}/hf", f"{here}/wiki.txt"}
    assert not {"--tasks-dir", "--data-dir"} & set(found["arguments"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model-path", "mine.gguf"), False),
        (("--model-path", "hf", "--kind", "native"), False),
        (("--model-path", "hub:o/n/x.gguf@main"), False),
        (("--model-path", "gs://b/mine"), True),
        (("--model-path", "gs://b/mine", "--kind", "gguf"), False),
    ],
)
def test_what_a_gpu_would_be_used_for(here: Path, arguments: tuple[str, ...], expected: bool) -> None:
    assert described(*arguments, "--text", "wiki.txt")["on_gpu"] is expected


REFUSED = {
    ("--text", "wiki.txt", "--output", "x.json"): "--output: leave it out; `wf eval --results RUN` fetches",
    ("--tasks", "mine", "--answers", "x.jsonl"): "--answers: leave it out",
    (): "nothing to measure",
    ("--text", "none.txt"): "there is no text file none.txt",
    ("--text", "wiki.txt", "--adapter", "none.gguf"): "there is no file none.gguf",
    (
        "--tasks",
        "mine",
        "--tasks-dir",
        "gs://b/tasks",
    ): "--tasks-dir gs:/b/tasks: give a folder of this machine",
    ("--tasks", "other", "--tasks-dir", "tasks"): "tasks has no task 'other'",
    ("--tasks", "mine", "--tasks-dir", "tasks", "--data-dir", "none"): "sub/mine.jsonl, which is missing",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_requests_are_one_line(here: Path, arguments: tuple[str, ...]) -> None:
    done = describe("--model-path", "hf", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert REFUSED[arguments] in line


def test_a_model_that_is_not_here_is_refused(here: Path) -> None:
    done = describe("--model-path", "none", "--text", "wiki.txt")
    assert done.exit_code == 2
    assert "there is no model at none" in done.stderr


STAY = {
    f"{TASK}dataset_kwargs: {{data_files: {{test: /x/a.jsonl}}}}": "reads /x/a.jsonl, which stays here",
    f"{TASK}dataset_kwargs: {{data_files: {{test: ../mine.jsonl}}}}": "reads ../mine.jsonl, which stays here",
    f"{TASK}dataset_kwargs: {{data_files: a.jsonl}}": "reads 'a.jsonl', which stays here",
    f"{TASK}include: base.yaml": "reads {'test': 'a.jsonl'}, which stays here",
    f"{TASK}include: ../base.yaml": "base.yaml, which stays here: put it into tasks",
    TASK.replace("json", "./set"): "reads ./set, which stays here",
    TASK.replace("json", "data/sub"): "reads data/sub, which stays here",
}


@pytest.mark.parametrize("text", STAY)
def test_tasks_that_name_files_which_stay_are_refused(
    here: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be found missing here is found before; so these data are."""
    monkeypatch.setattr("wrinklefree_eval.elsewhere.check_reading", lambda *_: None)
    (here / "tasks" / "mine.yaml").write_text(text)
    (here / "tasks" / "base.yaml").write_text("dataset_kwargs: {data_files: {test: a.jsonl}}")
    (here / "base.yaml").write_text("x: 1")
    done = describe("--model-path", "hf", "--tasks", "mine", "--tasks-dir", "tasks", "--data-dir", "data")
    assert done.exit_code == 2, done.output
    assert STAY[text] in done.stderr


def test_an_included_file_goes_along(here: Path) -> None:
    (here / "tasks" / "mine.yaml").write_text(f"{DATA}include: base.yaml")
    (here / "tasks" / "base.yaml").write_text("dataset_kwargs: {data_files: {test: /overridden}}\nx: 1")
    found = described("--model-path", "hf", "--tasks", "mine", "--tasks-dir", "tasks", "--data-dir", "data")
    assert found["inputs"][f"{here}/tasks"] == ["base.yaml", "helpers/words.py", "mine.yaml"]


@pytest.mark.parametrize("place", ["gs://b/mine", "s3:/b/mine", "hub:o/n"])
@pytest.mark.parametrize("option", ["--model-path", "--text"])
def test_here_a_url_is_refused_with_what_fetches_it(here: Path, place: str, option: str) -> None:
    given = {"--model-path": "hf", "--text": "wiki.txt"} | {option: place}
    done = CliRunner().invoke(app, [word for pair in given.items() for word in pair])
    assert done.exit_code == 2
    assert "is not on this machine: fetch it (`wf store get`, `wf pull`), or" in done.stderr


def test_a_report_is_shown_again(tmp_path: Path) -> None:
    model = {"name": "a\x1b[2J", "kind": "gguf", "num_parameters": 1, "size_bytes": 1}
    tasks = {"piqa": {"acc": 0.5, "acc_stderr": 0.1, "num_samples": 4}}
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"model": model, "perplexity": [], "tasks": tasks}))
    done = CliRunner().invoke(show.app, [str(path)])
    assert (done.exit_code, "piqa" in done.stdout, "\x1b" in done.stdout) == (0, True, False)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"model": {}}', "{", None])
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    done = CliRunner().invoke(show.app, [str(path)])
    assert done.exit_code == 1
    assert str(path) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
