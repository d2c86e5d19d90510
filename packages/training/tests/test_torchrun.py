"""torchrun: a worker that is lost is started again with the others; a lost agent leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import is_running

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
OPTIONS = [
    "training.max_steps=6",
    "training.schedule.decay=1",
    "training.checkpoint.every_steps=2",
    "training.batch_size=1",
    "training.zclip.warmup_steps=2",
    "distributed=fsdp",
    "distributed.devices=2",
]
ALIVE_S = 60.0
"""Far less than the minutes that a rank waits for a lost one."""


def _torchrun(*command: object) -> subprocess.Popen[str]:
    """Two ranks, one restart; the ranks' store is not the agent's, which a restart would find full of the
    dead ranks' addresses."""
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    options = ["--nnodes=1", "--nproc-per-node=2", "--max-restarts=1", *rendezvous]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )


@pytest.mark.slow
def test_a_killed_worker_is_started_again(cli_from_stage1: Any, tmp_path: Path) -> None:
    whole = cli_from_stage1.in_ranks("stage2_pretrain", *OPTIONS, experiment="whole")
    assert whole.code == 0
    arguments = cli_from_stage1.arguments("stage2_pretrain", *OPTIONS, "experiment=restarted")
    process = _torchrun(Path(__file__).with_name("lost_worker.py"), tmp_path / "killed", *arguments)
    _, log = process.communicate(timeout=550)
    assert process.returncode == 0, log[-3000:]
    assert (tmp_path / "killed").exists()
    assert "resuming from" in log
    restarted = type(whole)(0, cli_from_stage1.folder("stage2_pretrain", "restarted"))
    assert restarted.losses == whole.losses
    assert restarted.weights == whole.weights


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["torchrun", "the first rank"])
def test_a_killed_starter_leaves_no_orphans(cli_from_stage1: Any, starter: str) -> None:
    more = ["training.max_steps=100000", "experiment=orphans"]
    arguments = cli_from_stage1.arguments("stage2_pretrain", *OPTIONS, *more)
    if starter == "torchrun":
        process = _torchrun(SCRIPT, *arguments)
    else:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments], stderr=subprocess.PIPE, text=True, env=environment
        )
    checkpoints = cli_from_stage1.folder("stage2_pretrain", "orphans") / "checkpoints"
    ranks: list[int] = []
    try:
        _wait_until(lambda: any(checkpoints.glob("step_*")) or process.poll() is not None, 550)
        assert process.poll() is None
        ranks = _children(process.pid)
        assert len(ranks) >= (2 if starter == "torchrun" else 1)
        process.kill()
        _wait_until(lambda: not any(map(is_running, ranks)), ALIVE_S)
    finally:
        for pid in (process.pid, *ranks):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def _wait_until(condition: Any, limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.1)
