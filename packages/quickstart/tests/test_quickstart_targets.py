"""`wf quickstart` touches nothing that is not its own, and refuses in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wf_formats.errors import RequestError
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


@pytest.mark.parametrize("output", ["/proc/x", "/dev/null/x"])
def test_an_output_that_cannot_be_made_is_one_line(output: str) -> None:
    done = CliRunner().invoke(app, ["--output", output])
    assert done.exit_code == 1
    assert done.output.startswith(f"error: {output}: ")
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("name", [*(name for name in OWN if OWN[name]), "checkpoints/quickstart/stage1"])
def test_force_stops_at_what_it_did_not_make(tmp_path: Path, name: str) -> None:
    State(tmp_path, {"steps": 1})
    ours = tmp_path / "logs" / "export.log"
    ours.parent.mkdir()
    ours.write_text("ours")
    (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / name / "thesis.docx").write_text("keep")
    with pytest.raises(RequestError, match=r"thesis\.docx in it is not of a quickstart"):
        State(tmp_path, {"steps": 2}, force=True)
    assert (tmp_path / name / "thesis.docx").read_text() == "keep"
    assert ours.read_text() == "ours"


def test_force_removes_everything_that_a_quickstart_makes(tmp_path: Path) -> None:
    State(tmp_path, {"steps": 1})
    run = "checkpoints/quickstart/stage1"
    for name in (
        "text/train.jsonl",
        "model/source.json",
        "eval/teacher.json",
        "export/model.gguf",
        "export/.model.gguf.tmp-0123",
        "llamacpp/original-0.txt",
        "plots/sizes.png",
        "logs/stage1.log",
        "report.md",
        "checkpoints/quickstart/.stage1.lock",
        f"{run}/run.json",
        f"{run}/metrics.csv",
        f"{run}/final/model.safetensors",
        f"{run}/final/chat_template.jinja",
        f"{run}/final/tokenizer.model",
        f"{run}/parts/model.layers.0/tensors.safetensors",
        f"{run}/.final.tmp-0123/merges.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    State(tmp_path, {"steps": 2}, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


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
