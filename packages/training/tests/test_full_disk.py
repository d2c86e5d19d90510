"""A disk that is full, or a folder that cannot be written: one line, and the run goes on afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import transformers
from safetensors import SafetensorError

import bitnet_arch.checkpoint
import wf_formats.atomic
from wrinklefree.callbacks import StepLog
from wrinklefree.checkpoints import lightning_io
from wrinklefree.checkpoints.store import CheckpointStore

OPTIONS = ["training.max_steps=5", "training.checkpoint.every_steps=2", "training.schedule.decay=1"]


def _tensors_do_not_fit(tensors: Any, path: Path, *_args: Any, **_options: Any) -> NoReturn:
    """As safetensors has it, after a part was written."""
    Path(path).write_bytes(b"part")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def _tokens_do_not_fit(*_args: Any, **_options: Any) -> NoReturn:
    """As tokenizers has it."""
    raise Exception("No space left on device (os error 28)")


def _sync_fails(_descriptor: int) -> NoReturn:
    """A network file system tells of a full quota only now."""
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def _after_the_first_checkpoint(act: Callable[[], None]) -> None:
    original = StepLog.on_step_end

    def patched(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        original(self, trainer, module, done)
        if done == 3:
            act()

    StepLog.on_step_end = patched  # type: ignore[method-assign]


def full_at_the_weights() -> None:
    _after_the_first_checkpoint(lambda: setattr(bitnet_arch.checkpoint, "save_file", _tensors_do_not_fit))


def full_at_the_optimizer() -> None:
    _after_the_first_checkpoint(lambda: setattr(lightning_io, "save_file", _tensors_do_not_fit))


def full_at_the_tokenizer() -> None:
    _after_the_first_checkpoint(
        lambda: setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", _tokens_do_not_fit)
    )


def full_at_the_end() -> None:
    _after_the_first_checkpoint(lambda: setattr(wf_formats.atomic.os, "fsync", _sync_fails))


@pytest.mark.parametrize(
    "fill",
    [
        full_at_the_weights,
        pytest.param(full_at_the_optimizer, marks=pytest.mark.slow),
        pytest.param(full_at_the_tokenizer, marks=pytest.mark.slow),
        pytest.param(full_at_the_end, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_filled_the_disk_is_resumed(cli_from_stage1: Any, fill: Callable[[], None]) -> None:
    run = cli_from_stage1.in_child("stage2_pretrain", *OPTIONS, experiment="full", before=fill)
    log = (cli_from_stage1.output_dir / "full.log").read_text()
    assert run.code == 1
    assert log.count("error: ") == 1
    assert "; free some space, or write to another disk" in log.splitlines()[-1]
    assert "Traceback" not in log
    assert CheckpointStore(run.folder / "checkpoints").steps() == [2]
    assert not list((run.folder / "checkpoints").glob(".*"))
    resumed = cli_from_stage1("stage2_pretrain", *OPTIONS, experiment="full")
    assert resumed.code == 0
    whole = cli_from_stage1("stage2_pretrain", *OPTIONS, experiment="whole")
    assert resumed.losses == whole.losses
    assert resumed.weights == whole.weights


@pytest.mark.parametrize("stage", ["stage1_subln", "stage2_pretrain"])
def test_a_folder_that_cannot_be_made_is_one_line(
    cli_from_stage1: Any, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    start = [
        text for text in cli_from_stage1.common if stage == "stage2_pretrain" or "start_from" not in text
    ]
    cli_from_stage1.common = start
    assert cli_from_stage1(stage, f"output_dir={tmp_path / 'file'}").code == 2
    message = capsys.readouterr().err
    assert f"error: {tmp_path / 'file'}" in message
    assert "check the path" in message
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(
    cli_from_stage1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    assert cli_from_stage1("stage2_pretrain", f"output_dir={folder}").code == 1
    assert "Permission denied; choose a path that you may use" in capsys.readouterr().err
