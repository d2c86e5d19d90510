"""What a figure was measured on, and who else was busy meanwhile: one place for every benchmark and report.

Without PyTorch and numpy: versions are those that the installed packages state.
"""

from __future__ import annotations

import itertools
import os
import platform
import time
from pathlib import Path
from typing import Any, Self

CPU_INFO = Path("/proc/cpuinfo")


def environment(*packages: str) -> dict[str, Any]:
    """Facts that belong into a benchmark's JSON.

    Args:
        packages: Distributions whose versions count.
    Returns:
        {"hardware": {"cpu", "cores", "memory_bytes"}, "commit": ..., "versions": {"python", ...}}.
    """
    return {"hardware": hardware(), "commit": commit(), "versions": versions(*packages)}


def hardware() -> dict[str, Any]:
    """Name of the processor, cores that this process may use, memory of the machine."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {"cpu": cpu_name(), "cores": num_cores(), "memory_bytes": pages * page_bytes}


def cpu_name() -> str:
    """Model name as /proc/cpuinfo has it; the machine's architecture where it has none."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


_OF_A_KIND = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part", "CPU variant")


def processor() -> str:
    """The kind of the first processor, for what is faster on one than on another: kinds may share a name."""
    if not CPU_INFO.is_file():
        return f"{platform.machine()} {platform.processor()}".strip()
    with CPU_INFO.open() as file:  # its end is far away where there are hundreds of processors
        first = itertools.takewhile(str.strip, file)
        parts = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in first)]
    return ", ".join(f"{name} {value}" for name, value in parts if name in _OF_A_KIND) or platform.machine()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def commit() -> str | None:
    """Commit of the checkout that this file is part of, short; None outside of one or without git."""
    import subprocess  # here and below: who only counts cores need not wait for it

    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions(*packages: str) -> dict[str, str | None]:
    """Versions of Python and of installed distributions; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
