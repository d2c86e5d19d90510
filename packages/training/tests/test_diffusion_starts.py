"""Block-diffusion models where an autoregressive one is asked for: refused before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bitnet_arch
from bitnet_arch.diffusion_model import to_block_diffusion
from wrinklefree.checkpoints.lightning_io import save_model_folder
from wrinklefree.data_choice.main import app

TOLD = "is a block-diffusion model (blocks of 8 tokens), which {} would misread as an autoregressive one: "


@pytest.fixture(scope="module")
def diffusion_start(stage1_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished checkpoint of the shared stage 1's model."""
    found = bitnet_arch.load_checkpoint(stage1_run.folder / "final")
    to_block_diffusion(found.model, found.tokenizer, 8)
    target = tmp_path_factory.mktemp("diffusion") / "final"
    meta = {key: value for key, value in found.meta.items() if key not in ("format", "conversion")}
    save_model_folder(found.model, found.tokenizer, target, meta, {})
    return target


@pytest.mark.parametrize(
    ("training", "number"),
    [
        ("stage1_5_calibrate", "1.5"),
        ("stage1_9_layerwise", "1.9"),
        ("stage2_pretrain", "2"),
        ("stage2_5_correct", "2.5"),
    ],
)
def test_a_stage_for_autoregressive_models_refuses_such_a_start(
    cli_from_stage1: Any,
    diffusion_start: Path,
    capsys: pytest.CaptureFixture[str],
    training: str,
    number: str,
) -> None:
    run = cli_from_stage1(training, f"training.start_from={diffusion_start}")
    assert run.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {diffusion_start} {TOLD.format(f'wf train -s {number}')}")
    assert line.endswith("`wf dlm` then")
    assert not run.folder.exists()


def test_so_do_conversion_and_teachers(
    cli: Any, cli_from_stage1: Any, diffusion_files_of: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = diffusion_files_of["folder"]
    run = cli("stage1_subln", f"model.name={folder}")
    assert run.code == 2
    assert TOLD.format("wf train") in capsys.readouterr().err
    assert not list(run.folder.rglob("*.safetensors"))
    teacher = ["model.teacher.source=path", f"model.teacher.name={folder}"]
    run = cli_from_stage1("stage1_9_layerwise", *teacher)
    assert run.code == 2
    assert TOLD.format("wf train") in capsys.readouterr().err
    assert not list(run.folder.rglob("*.safetensors"))


def test_so_do_scores_of_data(
    diffusion_files_of: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = diffusion_files_of["folder"]
    text = tmp_path / "text.txt"
    text.write_text("a text")
    arguments = ["score", str(text), "--probe", str(text), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--model", str(folder)])
    assert done.exit_code == 2
    assert TOLD.format("wf data") in " ".join(done.output.replace("│", " ").split())
