"""What a figure was measured on, and who else was busy meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

_PACKAGES = ("wrinklefree-inference", "ternary-kernels", "xllamacpp", "numpy")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def hardware() -> dict[str, Any]:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": pages * page_bytes,
    }


def commit() -> str | None:
    """Of the checkout that this file is part of; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


class OtherProcesses:
    """Counts, over its `with` block, the processor time that neither this process nor its children took."""

    def __enter__(self) -> Self:
        self._start = self._now()
        return self

    def __exit__(self, *_exc: object) -> None:
        elapsed_s, busy_s, own_s = (b - a for a, b in zip(self._start, self._now(), strict=True))
        self.cores = max(0.0, busy_s - own_s) / elapsed_s
        """Cores that others used on average."""

    @staticmethod
    def _now() -> tuple[float, float, float]:
        user, nice, system, _idle, _iowait, irq, softirq, steal = busy_ticks(Path("/proc/stat").read_text())
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.monotonic(), busy, own.user + own.system + own.children_user + own.children_system


def busy_ticks(stat: str) -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal of all cores together."""
    return [int(part) for part in stat.splitlines()[0].split()[1:9]]
