"""What else is installed, set or missing on the machine: it changes nothing, or is said at once."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

STEPS = ["training.max_steps=2"]
BATCH_SYSTEMS = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "LSB_JOBID": "8",
    "LSB_DJOB_RANKFILE": "/nowhere",
    "JSM_NAMESPACE_RANK": "3",
    "OMPI_COMM_WORLD_RANK": "3",
}


@pytest.mark.parametrize("inside", [False, True], ids=["login node", "inside a job"])
def test_a_batch_system_changes_nothing(
    cli_from_stage1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    expected = cli_from_stage1("stage2_pretrain", *STEPS, experiment="alone")
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=":")
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # what Lightning takes from the variables when imported
    for name, value in BATCH_SYSTEMS.items() if inside else ():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        run = cli_from_stage1("stage2_pretrain", *STEPS, experiment="in-a-job")
    assert run.code == 0
    assert run.losses == expected.losses


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("distributed.accelerator=cuda", "set distributed.accelerator=cpu or auto"),
        ("distributed.accelerator=gpu", "set distributed.accelerator=cpu or auto"),
        ("distributed.accelerator=mps", "set distributed.accelerator=cpu or auto"),
        ("distributed.backend=nccl", "distributed.backend=gloo"),
        ("distributed.backend=ucc", "leave it out"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_devices_that_are_not_there(
    cli_from_stage1: Any, override: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli_from_stage1("stage2_pretrain", *STEPS, override)
    assert run.code == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {override}".removesuffix("ucc"))
    assert fix in message
    assert message.count("\n") == 1
    assert not run.folder.exists()


@pytest.mark.parametrize("override", ["distributed.accelerator=tpu", "distributed.backend=glo"])
def test_unknown_devices_are_a_wrong_configuration(
    main: Any, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-s", "2", override]) == 2
    assert f"configuration error: {override}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "more"), [("stage2_pretrain", STEPS), ("stage1_5_calibrate", ["training.ternarize.tokens=512"])]
)
def test_wandb_without_a_key_ends_at_the_start(
    cli_from_stage1: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    more: list[str],
) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(wandb, "init", lambda **_options: _no_key(wandb))
    run = cli_from_stage1(stage, *more, "logging.wandb=true")
    assert run.code == 1
    message = capsys.readouterr().err
    assert "error: logging.wandb: No API key configured" in message
    assert "logging.wandb_options.mode=offline" in message
    assert not (run.folder / "metrics.csv").exists()


def _no_key(wandb: Any) -> None:
    raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")


def test_numbers_that_json_lacks_are_not_written(tmp_path: Path) -> None:
    from wrinklefree.checkpoints.lightning_io import write_figures
    from wrinklefree.errors import DivergedError

    with pytest.raises(DivergedError, match=r"losses_nats\.dense is nan"):
        write_figures(tmp_path, {"steps": 1, "losses_nats": {"dense": float("nan")}})
    assert not list(tmp_path.iterdir())
    write_figures(tmp_path, {"steps": 1, "losses": [0.5]})
    assert json.loads((tmp_path / "figures.json").read_text()) == {"steps": 1, "losses": [0.5]}
