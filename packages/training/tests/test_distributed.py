"""Two processes on the CPU: the losses of one process, and resumption."""

from __future__ import annotations

import csv
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wf_stores import complete_names, open_store, upload_folder
from wrinklefree.distributed import own_share

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
OPTIONS = [
    "training.max_steps=4",
    "training.schedule.decay=1",
    "training.checkpoint.every_steps=2",
    "training.batch_size=1",
    "training.zclip.warmup_steps=2",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def _start(arguments: list[str], launcher: Sequence[str] = ()) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("ddp", "adamw"), ("ddp", "adamw optimizer.state=int8"), ("fsdp", "adamw"), ("fsdp", "muon")],
)
def test_two_processes_equal_one_and_resume(cli_from_stage1: Any, kind: str, optimizer: str) -> None:
    options = [*OPTIONS, *f"optimizer={optimizer}".split()]
    one = ["training.accumulate_steps=2", "data.num_shares=2"]
    alone = cli_from_stage1("stage2_pretrain", *options, *one, experiment="alone")
    assert alone.code == 0
    both = [*options, f"distributed={kind}", "distributed.accelerator=cpu", "experiment=both"]
    arguments = cli_from_stage1.arguments("stage2_pretrain", *both)
    _start(arguments)
    folder = cli_from_stage1.folder("stage2_pretrain", "both")
    together = type(alone)(0, folder)
    for step, loss in alone.losses.items():
        assert math.isclose(float(loss), float(together.losses[step]), rel_tol=1e-3), step
    losses, weights = together.losses, together.weights
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    assert f"resuming from {folder / 'checkpoints' / 'step_00000002'}" in _start(arguments)
    assert together.losses == losses
    assert together.weights == weights


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]]
)
def test_two_processes_start_from_an_upload_and_upload(
    cli: Any, stage1_run: Any, tmp_path: Path, launcher: list[str]
) -> None:
    upload_folder(stage1_run.folder / "final", open_store(tmp_path / "store"), "start")
    start = f"training.start_from={tmp_path / 'store' / 'start'}"
    uploads = f"training.checkpoint.upload={tmp_path / 'uploads'}"
    ddp = ["distributed=ddp", "distributed.accelerator=cpu", "distributed.devices=2", "experiment=both"]
    arguments = cli.arguments("stage2_pretrain", *OPTIONS, start, uploads, *ddp)
    folder = cli.folder("stage2_pretrain", "both")
    _start(arguments, launcher)
    names = [name.rpartition("/")[2] for name in complete_names(open_store(tmp_path / "uploads"))]
    assert names == ["final", "step_00000002", "step_00000004"]
    weights = (folder / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(folder)
    _start(arguments, launcher)
    assert (folder / "final" / "model.safetensors").read_bytes() == weights
    assert list(folder.parent.glob(".start-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_clip_logits_as_one(cli: Any, kind: str) -> None:
    """Each sees half of the logits, and under fsdp holds half of the rows that are scaled."""
    group = ["model.scheme=group64", "training.accept_from=[stage1]", "training.qk_clip.threshold=1e-3"]
    for experiment in ("alone", "both"):
        assert cli("stage1_subln", "model.scheme=group64", experiment=experiment).code == 0
    one = ["training.accumulate_steps=2", "data.num_shares=2"]
    alone = cli("stage2_pretrain", *OPTIONS, *group, *one, experiment="alone")
    assert alone.code == 0
    both = [*OPTIONS, *group, f"distributed={kind}", "distributed.devices=2"]
    _start(cli.arguments("stage2_pretrain", *both, "experiment=both"))
    rows = [_rows(cli.folder("stage2_pretrain", experiment)) for experiment in ("alone", "both")]
    for one, two in zip(*rows, strict=True):
        assert int(one["train/clipped_heads"]) == int(two["train/clipped_heads"]) > 0
        for key in ("train/tokens", "train/label_tokens"):
            assert int(one[key]) == int(two[key]) > 0
        for key in ("train/loss", "train/largest_logit"):
            assert math.isclose(float(one[key]), float(two[key]), rel_tol=1e-3), (one["step"], key)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_follow_one_plan(cli_from_stage1: Any, kind: str) -> None:
    """By a real clock: the ranks would wait for each other without end if their plans differed."""
    minutes = [*OPTIONS, "training.max_steps=null", "training.minutes=0.3", f"distributed={kind}"]
    more = ["distributed.accelerator=cpu", "experiment=planned"]
    arguments = cli_from_stage1.arguments("stage2_pretrain", *minutes, *more)
    assert "steps fit into training.minutes=0.3" in _start(arguments)
    folder = cli_from_stage1.folder("stage2_pretrain", "planned")
    planned = int((folder / "metrics.csv").read_text().splitlines()[-1].split(",")[0])
    shutil.rmtree(folder / "final")
    assert "resuming from" in _start(arguments)
    steps = int((folder / "metrics.csv").read_text().splitlines()[-1].split(",")[0])
    assert 10 <= steps <= planned + 20


@pytest.mark.slow
def test_ddp_checkpoint_continues_under_fsdp(cli_from_stage1: Any) -> None:
    def arguments(kind: str) -> list[str]:
        more = [f"distributed={kind}", "distributed.accelerator=cpu", "experiment=change"]
        return cli_from_stage1.arguments("stage2_pretrain", *OPTIONS, *more)

    _start(arguments("ddp"))
    folder = cli_from_stage1.folder("stage2_pretrain", "change")
    whole = {row["step"]: float(row["train/loss"]) for row in _rows(folder)}
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    assert "resuming from" in _start(arguments("fsdp"))
    changed = {row["step"]: float(row["train/loss"]) for row in _rows(folder)}
    assert changed.keys() == whole.keys()
    for step, loss in whole.items():
        assert math.isclose(loss, changed[step], rel_tol=1e-4), step


def test_other_number_of_processes_is_refused() -> None:
    with pytest.raises(ValueError, match="data positions of 2 processes and this run has 1"):
        own_share(["a", "b"], "data positions")


def test_single_with_several_devices_is_refused(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli_from_stage1("stage2_pretrain", *OPTIONS, "distributed.devices=2")
    assert run.code == 2
    assert "choose distributed=ddp or fsdp" in capsys.readouterr().err
