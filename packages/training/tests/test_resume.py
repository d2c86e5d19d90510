"""A resumed run equals the uninterrupted one to the bit, whatever interrupted it."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from wrinklefree.callbacks import StepLog
from wrinklefree.checkpoints import lightning_io
from wrinklefree.checkpoints.store import CheckpointStore

OPTIONS = [
    "training.max_steps=7",
    "training.schedule.decay=2",
    "training.checkpoint.every_steps=2",
    "training.zclip.warmup_steps=3",
    "training.lambda_warmup_steps=4",
    "training.accumulate_steps=2",
]


def _kill_now(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_step(step: int, act: Callable[[], None]) -> None:
    """In this process (a child of its own), `act` when `step` has been logged."""
    original = StepLog.on_step_end

    def patched(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        original(self, trainer, module, done)
        if done == step:
            act()

    StepLog.on_step_end = patched  # type: ignore[method-assign]


def kill_between_checkpoints() -> None:
    _at_step(5, _kill_now)


def kill_before_the_manifest_is_written() -> None:
    def arm() -> None:
        lightning_io.write_manifest = _kill_now

    _at_step(4, arm)


def kill_before_the_rename() -> None:
    def arm() -> None:
        import wf_formats.atomic

        wf_formats.atomic._replace_folder = _kill_now

    _at_step(4, arm)


def kill_while_removing_an_old_checkpoint() -> None:
    def arm() -> None:
        import wrinklefree.checkpoints.store as store

        store.shutil.rmtree = _kill_now  # type: ignore[assignment]

    _at_step(6, arm)


def terminate() -> None:
    _at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))


def interrupt() -> None:
    _at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))


@pytest.fixture(scope="module")
def uninterrupted(make_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_cli(tmp_path_factory.mktemp("whole"))("stage2_pretrain", *OPTIONS)


@pytest.mark.parametrize(
    ("interruption", "code", "resumed_step"),
    [
        (kill_between_checkpoints, -signal.SIGKILL, 4),
        pytest.param(kill_before_the_manifest_is_written, -signal.SIGKILL, 2, marks=pytest.mark.slow),
        (kill_before_the_rename, -signal.SIGKILL, 2),
        (kill_while_removing_an_old_checkpoint, -signal.SIGKILL, 6),
        (terminate, 128 + signal.SIGTERM, 3),
        (interrupt, 128 + signal.SIGINT, 3),
    ],
)
def test_resumed_run_is_bit_equal(
    cli_from_stage1: Any,
    uninterrupted: Any,
    interruption: Callable[[], None],
    code: int,
    resumed_step: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_child = cli_from_stage1.in_child
    assert run_child("stage2_pretrain", *OPTIONS, experiment="x", before=interruption).code == code
    store = CheckpointStore(cli_from_stage1.folder("stage2_pretrain", "x") / "checkpoints")
    assert store.steps()[-1] == resumed_step
    with caplog.at_level("INFO", "wrinklefree"):
        resumed = cli_from_stage1("stage2_pretrain", *OPTIONS, experiment="x")
    assert f"resuming from {store.path(resumed_step)}" in caplog.text
    assert resumed.code == 0
    assert len(resumed.losses) == 7
    assert resumed.losses == uninterrupted.losses
    assert resumed.weights == uninterrupted.weights
    assert not list(store.folder.glob(".*")), "leftovers of the killed process are removed"
    figures = ("tokens", "label_tokens", "first_loss", "last_loss")
    assert [resumed.summary[f] for f in figures] == [uninterrupted.summary[f] for f in figures]


@pytest.mark.parametrize(
    "variant",
    [
        "optimizer=muon training.ema_decay=0.5",
        "data.num_workers=1 optimizer.weight_decay=1 optimizer.weight_decay_share=0.8 optimizer.state=int8",
        pytest.param("optimizer.state=bf16", marks=pytest.mark.slow),
        pytest.param("optimizer.fused=true", marks=pytest.mark.slow),
        pytest.param("optimizer=adamw_8bit", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_state_resumes_bit_equal(cli_from_stage1: Any, variant: str) -> None:
    start = functools.partial(cli_from_stage1.in_child, "stage2_pretrain", *OPTIONS, *variant.split())
    whole = start(experiment="whole")
    assert whole.code == 0
    killed = start(experiment="killed", before=kill_between_checkpoints)
    assert killed.code == -signal.SIGKILL
    assert CheckpointStore(killed.folder / "checkpoints").steps()[-1] == 4
    assert start(experiment="killed").code == 0
    assert killed.losses == whole.losses
    assert killed.weights == whole.weights
