"""`wf quickstart` touches nothing that is not its own, and refuses in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wf_quickstart.children import Child, run_child
from wf_quickstart.cli import app
from wf_quickstart.errors import QuickstartError, QuickstartRequestError
from wf_quickstart.state import FILE_NAME, OWN, State


def snapshot(folder: Path) -> dict[str, object]:
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("kind", ["foreign", "file", "other json", "list", "damaged"])
def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path: Path, kind: str, force: list[str]) -> None:
    output = tmp_path / "p"
    if kind == "file":
        output.write_text("keep")
    else:
        (output / "text").mkdir(parents=True)
        (output / "text" / "thesis.txt").write_text("keep")
    texts = {"other json": '{"format": 2}', "list": "[]", "damaged": "{"}
    if kind in texts:
        (output / FILE_NAME).write_text(texts[kind])
    before = {name: kept for name, kept in snapshot(tmp_path).items() if name != "p/.lock"}
    done = CliRunner().invoke(app, ["--output", str(output), *force])
    assert done.exit_code == 2
    assert str(output) in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert {name: kept for name, kept in snapshot(tmp_path).items() if name != "p/.lock"} == before


@pytest.mark.parametrize(
    ("output", "code", "told"),
    [
        ("/proc/x", 1, "/proc/x: "),
        ("/dev/null/x", 2, "/dev/null is no folder, so /dev/null/x cannot be made"),
    ],
)
def test_an_output_that_cannot_be_made_is_one_line(output: str, code: int, told: str) -> None:
    done = CliRunner().invoke(app, ["--output", output])
    assert done.exit_code == code
    assert done.output.startswith(f"error: {told}")
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("name", [*OWN[:8], "text/deep", "checkpoints/quickstart/stage1", "eval/a/b"])
def test_starting_over_loses_nothing(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    State(tmp_path, {"steps": 1})
    for file in ("corpus.jsonl", "notes.json", "holiday.png", "thesis.docx"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / file).write_text(file)
    (tmp_path / "own.txt").write_text("beside")
    State(tmp_path, {"steps": 2}, force=True)
    (aside,) = tmp_path.glob("replaced-*")
    assert {path.name: path.read_text() for path in (aside / name).iterdir()} == {
        file: file for file in ("corpus.jsonl", "notes.json", "holiday.png", "thesis.docx")
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["own.txt", FILE_NAME, aside.name])
    assert str(aside) in capsys.readouterr().err


@pytest.mark.parametrize("output", ["model", "model/out", "."])
def test_the_models_folder_is_only_read(tmp_path: Path, output: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    done = CliRunner().invoke(
        app, ["--model", f"path:{tmp_path / 'model'}", "--output", str(tmp_path / output)]
    )
    assert done.exit_code == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model"]


@pytest.mark.parametrize("arguments", [["--model", "[/x]"], ["--text", "[/x]"], ["--model", "path:/proc"]])
def test_wrong_requests_are_one_line(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["--output", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert issubclass(QuickstartRequestError, QuickstartError)


def test_a_step_that_died_of_a_signal_is_told(tmp_path: Path) -> None:
    import sys

    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(QuickstartError, match="step 'x' was ended by SIGKILL; perhaps memory ran out"):
        run_child(Child("x", command, tmp_path / "log"))
