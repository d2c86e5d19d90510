"""The losses of the three stages are those of the golden file, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "golden" / "golden_losses.py"


def test_losses_equal_the_golden_ones() -> None:
    golden = json.loads(SCRIPT.with_name("losses.json").read_text())
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["losses"] == golden["losses"], (
        f"the losses differ from {SCRIPT.with_name('losses.json')} (made with torch "
        f"{golden['torch']}, here {found['torch']}, CPU {torch.backends.cpu.get_cpu_capability()}). "
        f"If the change is meant, run: python {SCRIPT} --write"
    )
