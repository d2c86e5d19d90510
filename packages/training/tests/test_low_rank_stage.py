"""Stage 2.5 and what trains its corrections: hand-over, figures, resumption to the bit, refusals."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import kill_after_the_first_block

import bitnet_arch
from bitnet_arch.low_rank import FACTORS, corrected_linears
from wrinklefree.callbacks.step_log import StepLog
from wrinklefree.stages.correction import CORRECTIONS_FILE

STAGE, TRAIN = "stage2_5_correct", "stage2_pretrain"
RANK = "training.low_rank.rank"
ALONE = ["training.trained=low_rank", "training.max_steps=4", "training.schedule.decay=1"]


@pytest.fixture(scope="module")
def corrected(make_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = make_cli(tmp_path_factory.mktemp("corrected"))(STAGE, "training.low_rank.evaluation_tokens=512")
    assert run.code == 0
    return run


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = bitnet_arch.load_checkpoint(folder).model.state_dict()
    return state


def _is_factor(name: str) -> bool:
    return name.endswith(FACTORS)


def test_figures_and_what_is_changed(corrected: Any, stage1_run: Any) -> None:
    summary = corrected.summary
    assert (summary["stage"], summary["status"], summary["rank"]) == ("stage2_5", "complete", 4)
    # A block: q, o 64 x 64, k, v 32 x 64, gate, up 128 x 64, down 64 x 128.
    numbers, weights = 4 * (2 * 128 + 2 * 96 + 3 * 192), 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64
    assert summary["added_bits_per_weight"] == pytest.approx(16 * numbers / weights)
    losses = summary["losses_nats"]
    assert list(losses) == ["dense", "quantized", "corrected"]
    assert all(5 < loss < 6 for loss in losses.values())  # a random model's
    reports = json.loads((corrected.folder / CORRECTIONS_FILE).read_text())
    assert [report["block"] for report in reports] == ["model.layers.0", "model.layers.1"]
    assert all(report["stream"] < report["stream_before"] for report in reports)
    assert not (corrected.folder / "parts").exists()
    before, after = _tensors(stage1_run.folder / "final"), _tensors(corrected.folder / "final")
    assert {name for name in after if _is_factor(name)} == after.keys() - before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(after[name].any() for name in after if _is_factor(name))


def test_a_killed_run_goes_on_to_the_bit(corrected: Any, cli_from_stage1: Any) -> None:
    evaluation = "training.low_rank.evaluation_tokens=512"
    killed = cli_from_stage1.in_child(
        STAGE, evaluation, experiment="default", before=kill_after_the_first_block
    )
    assert killed.code == -signal.SIGKILL
    resumed = cli_from_stage1(STAGE, evaluation)
    assert resumed.code == 0
    assert resumed.weights == corrected.weights
    assert resumed.summary["losses_nats"] == corrected.summary["losses_nats"]


def terminate_after_the_second_step() -> None:
    original = StepLog.on_step_end

    def patched(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        original(self, trainer, module, done)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    StepLog.on_step_end = patched  # type: ignore[method-assign]


def test_training_them_alone_touches_nothing_else_and_resumes(corrected: Any, cli: Any) -> None:
    start = f"training.start_from={corrected.folder / 'final'}"
    whole = cli(TRAIN, *ALONE, start, experiment="whole")
    assert whole.code == 0
    before = terminate_after_the_second_step
    stopped = cli.in_child(TRAIN, *ALONE, start, experiment="again", before=before)
    assert stopped.code == 128 + signal.SIGTERM
    again = cli(TRAIN, *ALONE, start, experiment="again")
    assert (again.code, again.weights, again.losses) == (0, whole.weights, whole.losses)
    old, after = _tensors(corrected.folder / "final"), _tensors(whole.folder / "final")
    assert old.keys() == after.keys()
    for name, tensor in old.items():
        assert torch.equal(after[name], tensor) != _is_factor(name), name


def test_other_training_moves_all(corrected: Any, cli: Any) -> None:
    start = f"training.start_from={corrected.folder / 'final'}"
    run = cli(TRAIN, "training.max_steps=2", "training.schedule.warmup=1", "training.schedule.decay=1", start)
    assert run.code == 0
    before, after = _tensors(corrected.folder / "final"), _tensors(run.folder / "final")
    assert len(list(corrected_linears(bitnet_arch.load_checkpoint(run.folder / "final").model))) == 14
    assert not any(torch.equal(after[name], tensor) for name, tensor in before.items() if "_proj" in name)


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        (STAGE, [f"{RANK}=0"], f"{RANK}=0 is not possible: give a whole number, at least 1"),
        (STAGE, [f"{RANK}=33"], f"{RANK}=33: model.layers.0.self_attn.k_proj: rank 33 is not possible"),
        (STAGE, ["optimizer=adamw"], "stage2_5 does not use 'optimizer'"),
        (TRAIN, [*ALONE], "has no low-rank corrections: make some with wf train -s 2.5"),
        (TRAIN, [*ALONE, "optimizer=muon"], "training.trained=low_rank with optimizer=muon"),
    ],
)
def test_what_cannot_be_asked(
    cli_from_stage1: Any, stage: str, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli_from_stage1(stage, *overrides)
    assert run.code == 2
    assert message in capsys.readouterr().err
    assert not run.folder.exists()


@pytest.mark.parametrize("stage", [STAGE, "stage1_5_calibrate"])
def test_stages_that_would_lose_corrections(
    corrected: Any, cli: Any, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli(stage, f"training.start_from={corrected.folder / 'final'}")
    assert run.code == 2
    message = capsys.readouterr().err
    assert "has low-rank corrections (rank 4)" in message
    assert f"{run.folder.name} would change what they correct" in message
    assert not run.folder.exists()
