"""Stages, objectives and teachers of another distribution: the folder `extension` is one, installed by
being on the path."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bitnet_arch
from wrinklefree import train
from wrinklefree.plugins import UnknownNameError, lookup, registered
from wrinklefree.stages.convert import Convert
from wrinklefree.stages.registry import GROUP, stages

EXTENSION = Path(__file__).with_name("extension")
ECHO = ["model.teacher.kind=echo", "model.teacher.vocab_size=259"]


@pytest.fixture
def _extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXTENSION)
    registered.cache_clear()
    yield
    registered.cache_clear()


@pytest.mark.usefixtures("_extension")
def test_a_stage_with_its_objective_and_teacher(cli_from_stage1: Any) -> None:
    cli_from_stage1.stage_folders |= {"stage9_agree": "stage9"}
    run = cli_from_stage1("stage9_agree", *ECHO, "training.max_steps=12", "training.learning_rate=1e-2")
    assert run.code == 0
    assert bitnet_arch.read_meta(run.folder / "final")["stage"] == "stage9"
    with (run.folder / "metrics.csv").open() as file:
        entropies = [float(row["agreement/entropy_nats"]) for row in csv.DictReader(file)]
    assert len(entropies) == 12
    assert entropies[-1] < 0.9 * entropies[0]


@pytest.mark.usefixtures("_extension")
def test_a_stage_without_gradients(
    main: Any, cli_from_stage1: Any, stage1_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *cli_from_stage1.common,
        f"output_dir={cli_from_stage1.output_dir}",
        "training.note=by hand",
    ]
    assert main(["--stage", "9.1", *arguments]) == 0
    final = cli_from_stage1.output_dir / "default" / "stage9_1" / "final"
    weights = (stage1_run.folder / "final" / "model.safetensors").read_bytes()
    assert (final / "model.safetensors").read_bytes() == weights
    assert '"note": "by hand"' in capsys.readouterr().out
    assert main(["--stage", "9.1", *arguments, "training.learning_rate=1"]) == 2
    message = "(stage9_1 does not use it). Known here: accept_from, note, stage, start_from."
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_extension")
def test_a_teacher_that_cannot_give_what_an_objective_wants(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_from_stage1("stage1_9_layerwise", *ECHO).code == 1
    message = "objective 'layerwise' wants hidden states of its teacher, which model.teacher.kind=echo"
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_extension")
def test_help_lists_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    assert "  9    agrees with a teacher; starts from stage2\n  9.1  copies the model;" in text
    assert "stage9_agree" in text


def test_without_it_its_names_are_unknown() -> None:
    assert [stage.number for stage in stages()] == ["1", "1.5", "1.9", "2", "2.5", "3", "4", "awq"]
    with pytest.raises(UnknownNameError, match=r"unknown teacher 'echo'; known: .*local"):
        lookup("wrinklefree.teachers", "teacher", "echo")


def _install(folder: Path, name: str, entry_points: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.mark.usefixtures("_extension")
def test_two_distributions_cannot_have_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "rival", f"[{GROUP}]\n9 = rival:Other\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"'9' is registered twice: (further:Distil|rival:Other), "):
        stages()


@pytest.mark.usefixtures("_extension")
def test_a_stage_is_registered_under_its_own_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"{Convert.__module__}:{Convert.__qualname__}"
    _install(tmp_path, "misnamed", f"[{GROUP}]\n8 = {target}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"Convert is registered as '8' .* its number is '1'"):
        stages()


def test_a_broken_plugin_is_named_where_it_is_needed(
    main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_plugin.py").write_text("import a_module_that_is_not_there\n")
    _install(tmp_path, "broken", "[wrinklefree.objectives]\nbroken = broken_plugin:Broken\n")
    monkeypatch.syspath_prepend(tmp_path)
    registered.cache_clear()
    (tmp_path / "manifest.json").touch()
    assert main(["-s", "2", "--describe", f"training.start_from={tmp_path}"]) == 0
    assert main(["-s", "2", "--describe", "training.objectives.broken.weight=1"]) == 2
    message = "'broken' of broken 1.0 cannot be loaded from broken_plugin:Broken: ModuleNotFoundError"
    assert message in capsys.readouterr().err
    registered.cache_clear()


def test_a_stage_that_is_there_twice_ends_with_a_message(
    main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(tmp_path, "rival", f"[{GROUP}]\n2 = rival:Other\n")
    monkeypatch.syspath_prepend(tmp_path)
    registered.cache_clear()
    assert main(["--help"]) == 2
    assert "'2' is registered twice: " in (printed := capsys.readouterr().err)
    assert "rival 1.0" in printed
    registered.cache_clear()
