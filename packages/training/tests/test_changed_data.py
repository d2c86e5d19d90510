"""Files that were changed under a run: refused by name, and data gone on with as the user says."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_handler.config import SourceConfig
from wf_formats.secrets import REDACTED
from wrinklefree.compose.composing import compose_config
from wrinklefree.datamodule import WrinkleFreeDataModule
from wrinklefree.identity import RunIdentity, identify

STEPS = ["training.max_steps=4", "training.checkpoint.every_steps=2", "training.schedule.warmup=1"]


def _mend(path: Path) -> None:
    """A line becomes another of the same length."""
    path.write_text(path.read_text().replace("squared", "SQUARED"))


def _append(path: Path) -> None:
    path.write_text(path.read_text() + json.dumps({"text": "one more"}) + "\n")


def _cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))


def _take_out_the_first(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.fixture
def text(text_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(text_file, tmp_path / "own.jsonl"))


def _stopped(cli: Any, source: str) -> Any:
    """A run that has its checkpoints and no result."""
    run = cli("stage2_pretrain", *STEPS, source)
    _take_back(run)
    return run


def _take_back(run: Any) -> None:
    shutil.rmtree(run.folder / "final")
    shutil.rmtree(run.folder / "checkpoints" / "step_00000004")


@pytest.mark.parametrize(
    "change",
    [
        _mend,
        *(pytest.param(change, marks=pytest.mark.slow) for change in (_take_out_the_first, _append, _cut)),
    ],
)
def test_changed_data_is_refused_with_both_choices(
    cli_from_stage1: Any,
    text: Path,
    change: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = f"data.sources=[{{kind: path, name: own, location: {text}}}]"
    run = _stopped(cli_from_stage1, source)
    before = sorted(path.relative_to(run.folder) for path in run.folder.rglob("*"))
    change(text)
    assert cli_from_stage1("stage2_pretrain", *STEPS, source).code == 1
    message = capsys.readouterr().err
    assert "the data has changed since (source own)" in message
    assert "resume.data=position goes on" in message
    assert "resume.data=fresh starts" in message
    assert sorted(path.relative_to(run.folder) for path in run.folder.rglob("*")) == before
    for choice in ("position", "fresh"):
        aside = shutil.copytree(run.folder, run.folder.with_name("aside"), dirs_exist_ok=True)
        assert cli_from_stage1("stage2_pretrain", *STEPS, source, f"resume.data={choice}").code == 0
        assert run.summary["data_changes"] == [{"step": 2, "data": choice, "sources": ["own"]}]
        assert set(run.losses) == {1, 2, 3, 4}
        caplog.clear()
        assert cli_from_stage1("stage2_pretrain", *STEPS, source, f"resume.data={choice}").code == 0
        assert "already complete" in capsys.readouterr().out
        assert f"resume.data={choice} is for a run that was interrupted" in caplog.text
        assert f"training.start_from={run.folder / 'final'}" in caplog.text
        shutil.rmtree(run.folder)
        aside.rename(run.folder)


def test_the_choices_differ_and_count_only_for_changed_data(
    cli_from_stage1: Any, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"data.sources=[{{kind: path, name: own, location: {text}}}]"
    whole = cli_from_stage1("stage2_pretrain", *STEPS, source)
    weights, losses = whole.weights, whole.losses
    _take_back(whole)
    stopped = shutil.copytree(whole.folder, whole.folder.with_name("stopped"))

    def stop() -> None:
        shutil.rmtree(whole.folder)
        shutil.copytree(stopped, whole.folder)

    assert cli_from_stage1("stage2_pretrain", *STEPS, source, "resume.data=fresh").code == 0
    assert (whole.weights, whole.losses) == (weights, losses)
    assert "data_changes" not in whole.summary
    _append(text)
    assert cli_from_stage1("stage2_pretrain", *STEPS, source, "resume.data=fresh").code == 1
    assert "resume.data=fresh is for a run that was interrupted, and this one" in capsys.readouterr().err
    after = {}
    for choice in ("position", "fresh"):
        stop()
        assert cli_from_stage1("stage2_pretrain", *STEPS, source, f"resume.data={choice}").code == 0
        after[choice] = [whole.losses[step] for step in (1, 2, 3, 4)]
    assert after["position"][:2] == after["fresh"][:2] == [losses[1], losses[2]]
    assert after["position"][2] != after["fresh"][2]


def test_bad_records_stop_a_run_or_are_counted(
    cli_from_stage1: Any,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = text.read_text().splitlines(keepends=True)
    text.write_text("".join(line + "{\n" for line in lines))
    source = f"kind: path, name: own, location: {text}"
    assert cli_from_stage1("stage2_pretrain", *STEPS, f"data.sources=[{{{source}}}]").code == 1
    assert "own.jsonl, line 2: " in capsys.readouterr().err
    asked = []
    count = WrinkleFreeDataModule.bad_records
    monkeypatch.setattr(WrinkleFreeDataModule, "bad_records", lambda self: asked.append(1) or count(self))
    skipping = f"data.sources=[{{{source}, on_bad_record: skip}}]"
    run = cli_from_stage1("stage2_pretrain", *STEPS, skipping, "logging.every_steps=3")
    assert run.code == 0
    assert len(asked) == 3 + 1, "at the steps that are logged (1, 3, 4) and at the end: all ranks talk"
    with (run.folder / "metrics.csv").open() as file:
        assert all(int(row["train/bad_records"]) >= 1 for row in csv.DictReader(file))
    found = run.summary["bad_records"]["own"]
    assert found["records"] >= 1
    assert found["first"][0].startswith(f"{text}, line ")


def test_records_may_be_treated_otherwise_when_going_on() -> None:
    config = compose_config(["training=stage2_pretrain"])
    values = []
    for on_bad_record in ("stop", "skip"):
        config.data.sources = [SourceConfig("packaged", "chat", on_bad_record=on_bad_record)]
        values.append(identify(config, None, Path(__file__).parent).values)
    assert values[0] == values[1]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_other_weights_under_the_same_path_are_another_run(
    cli: Any, dense_dir: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(dense_dir, tmp_path / "dense"))
    assert cli("stage1_subln", f"model.name={folder}").code == 0
    (folder / "model.safetensors").touch()
    assert cli("stage1_subln", f"model.name={folder}").code == 0
    assert "already complete" in capsys.readouterr().out
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    assert cli("stage1_subln", f"model.name={folder}").code == 1
    message = capsys.readouterr().err
    assert "content.model: the files are others than those that the run was made with" in message
    assert "force=true" in message


def test_a_folder_in_the_place_of_a_repository_counts_by_content(tmp_path: Path) -> None:
    def identified(name: str, text: str) -> RunIdentity:
        (tmp_path / name / "en").mkdir(parents=True)
        (tmp_path / name / ".cache").write_text(name)
        (tmp_path / name / "en" / "a.jsonl").write_text(text)
        (tmp_path / "now").unlink(missing_ok=True)
        (tmp_path / "now").symlink_to(tmp_path / name)
        source = f"data.sources=[{{kind: hub, name: a, location: {tmp_path}/now}}]"
        return identify(compose_config(["training=stage2_pretrain", source]), None, tmp_path)

    one, same, other = identified("one", "1"), identified("same", "1"), identified("other", "2")
    assert same.fingerprint == one.fingerprint
    assert other.fingerprint != one.fingerprint
    assert list(other.differences(one.record)) == ["content.folder.a"]


def test_a_run_without_contents_goes_on(cli_from_stage1: Any, text: Path) -> None:
    """One of an older version, which recorded none."""
    source = f"data.sources=[{{kind: path, name: own, location: {text}}}]"
    run = _stopped(cli_from_stage1, source)
    stored = json.loads((run.folder / "run.json").read_text())
    for key in [key for key in stored["values"] if key.startswith("content.")]:
        del stored["values"][key]
    (run.folder / "run.json").write_text(json.dumps(stored))
    assert cli_from_stage1("stage2_pretrain", *STEPS, source).code == 0


def test_secrets_are_not_in_the_identity() -> None:
    secret = "hf_Zx81qLmN0pRs7TuV2wXy"
    sources = f"data.sources=[{{kind: hub, name: a, location: 'https://me:{secret}@host/a'}}]"
    config = compose_config(["training=stage2_pretrain", sources])
    values = json.dumps(identify(config, None, Path(__file__).parent).values)
    assert secret not in values
    assert REDACTED in values
