"""The shortest runs, and models that a run's objectives cannot be computed on: told before the first step."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import bitnet_arch
from wrinklefree.plugins import registered

EXTENSION = Path(__file__).with_name("extension")


@pytest.fixture
def _extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXTENSION)
    registered.cache_clear()
    yield
    registered.cache_clear()


@pytest.mark.parametrize(
    "overrides",
    [
        *([f"training.max_steps={steps}"] for steps in (1, 2, 3, 4)),
        ["training.max_steps=1", "training.schedule.decay=0"],
        ["training.max_steps=4", "training.schedule.decay=0", "training.schedule.warmup=0"],
    ],
    ids=" ".join,
)
def test_the_shortest_runs_end_with_a_checkpoint_and_stay_finished(
    cli_from_stage1: Any, overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = int(overrides[0].partition("=")[2])
    shares = ["training.schedule.warmup=0.02", *overrides]
    run = cli_from_stage1("stage2_pretrain", *shares)
    assert run.code == 0
    assert set(run.losses) == set(range(1, steps + 1))
    assert bitnet_arch.read_meta(run.folder / "final")["step"] == steps
    weights = run.weights
    capsys.readouterr()
    again = cli_from_stage1("stage2_pretrain", *shares)
    assert (again.code, again.weights) == (0, weights)
    assert set(again.losses) == set(range(1, steps + 1))


def check_refused(run: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says why, and no step, checkpoint or result."""
    assert run.code == 1
    printed = capsys.readouterr().err
    assert re.search(f"^error: {message}", printed, re.MULTILINE), printed
    assert "Traceback" not in printed
    for name in ("final", "checkpoints"):
        assert not list((run.folder / name).rglob("*.safetensors"))
    if (table := run.folder / "metrics.csv").exists():
        with table.open() as file:
            assert not list(csv.DictReader(file))


@pytest.mark.usefixtures("_extension")
@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_the_student_has_not(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str], layer: int
) -> None:
    cli_from_stage1.stage_folders |= {"stage9_agree": "stage9"}
    teacher = ["model.teacher.kind=echo", "model.teacher.vocab_size=259"]
    run = cli_from_stage1("stage9_agree", *teacher, f"training.objectives.agreement.layer={layer}")
    message = rf"objective 'agreement': layer {layer} was asked for; there are 2 \(0 to 1\)"
    check_refused(run, message, capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_hidden_layers": 3},
            "the student has 2 blocks and the teacher 3; choose a teacher",
        ),
        ({"hidden_size": 128}, "the student's have 64 values and the teacher's 128; choose a teacher"),
    ],
)
def test_a_teacher_of_another_shape(
    cli_from_stage1: Any,
    dense_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, int],
    message: str,
) -> None:
    config = transformers.AutoConfig.from_pretrained(dense_dir)
    config.update(change)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "teacher")
    tokenizer = transformers.AutoTokenizer.from_pretrained(dense_dir)
    tokenizer.save_pretrained(tmp_path / "teacher")
    teacher = ["model.teacher.source=path", f"model.teacher.name={tmp_path / 'teacher'}"]
    run = cli_from_stage1("stage1_9_layerwise", *teacher, "training.max_steps=2")
    check_refused(run, f"objective 'layerwise': layerwise compares .*{message}", capsys)


def test_a_teacher_whose_head_has_a_bias(
    cli_from_stage1: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = torch.nn.Linear(64, 259)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "get_output_embeddings", lambda self: head)
    run = cli_from_stage1("stage1_9_layerwise", "training.max_steps=2")
    check_refused(run, ".*: the vocabulary projection has a bias", capsys)
