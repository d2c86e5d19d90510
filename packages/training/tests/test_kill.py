"""The real command in its own process, killed again and again at random moments."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
OPTIONS = [
    "training.max_steps=150",
    "training.schedule.decay=10",
    "training.checkpoint.every_steps=3",
]


@pytest.mark.slow
def test_random_kills_do_not_change_the_result(cli_from_stage1: Any) -> None:
    whole = cli_from_stage1("stage2_pretrain", *OPTIONS, experiment="whole")
    folder = cli_from_stage1.folder("stage2_pretrain", "killed")
    arguments = cli_from_stage1.arguments("stage2_pretrain", *OPTIONS, "experiment=killed")
    moments = random.Random(0)
    kills = 0
    while not (folder / "final").exists():
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        _wait_for_progress(process, folder / "checkpoints")
        time.sleep(moments.uniform(0, 1.0))
        if kills < 4 and process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills >= 2
    killed = type(whole)(0, folder)
    assert killed.losses == whole.losses
    assert killed.weights == whole.weights


def _wait_for_progress(process: Any, checkpoints: Path) -> None:
    """Until a new checkpoint is there, or the process has ended."""
    before = set(checkpoints.glob("step_*"))
    while process.poll() is None and not set(checkpoints.glob("step_*")) - before:
        time.sleep(0.02)
