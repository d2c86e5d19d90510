"""A process that ends with the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import os, time
from wf_formats.lifeline import end_with
end_with({})
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}.format(os.getpid())])
time.sleep(60)
"""


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_it_is_killed_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not has_ended(child)
        parent.kill()
        limit_s = time.monotonic() + 10
        while not has_ended(child):
            assert time.monotonic() < limit_s
            time.sleep(0.01)


def test_it_ends_at_once_if_another_started_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(os.getpid() + 1)], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (-9, b"")
