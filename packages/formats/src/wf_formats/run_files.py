"""Text files of a run that is still being written: the last lines of a log, and metrics.csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def last_lines(path: Path, count: int, window_bytes: int = 65536) -> list[str]:
    """The last lines of a log that are not blank; a progress bar's carriage returns count as line ends.

    No file: no lines. Only the last `window_bytes` of a long file are read.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - window_bytes))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-count:]


def read_metrics(run_folder: Path) -> list[dict[str, float]]:
    """Rows of a run's metrics.csv that have a step; empty cells are left out. No file: no rows.

    A last line that is still being written is skipped.
    """
    path = run_folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [_numbers(raw) for raw in csv.DictReader(file)]
    return [row for row in rows if "step" in row]


def _numbers(raw: dict[str, Any]) -> dict[str, float]:
    row = {}
    for key, value in raw.items():
        try:
            row[key] = float(value)
        except (TypeError, ValueError):  # an empty cell, or a line cut short
            continue
    return row
