"""How far a training run is, from the files it writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def read_metrics(run_folder: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv that have a step; empty cells are left out. No file: no rows.

    A last line that is still being written is skipped.
    """
    path = run_folder / "metrics.csv"
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for raw in csv.DictReader(file):
            row = _numbers(raw)
            if "step" in row:
                rows.append(row)
    return rows


def _numbers(raw: dict[str, Any]) -> dict[str, float]:
    row = {}
    for key, value in raw.items():
        try:
            row[key] = float(value)
        except (TypeError, ValueError):  # an empty cell, or a line cut short
            continue
    return row


def last_step(run_folder: str | None) -> int | None:
    """Last optimizer step in the metrics of a run folder; None: no metrics yet."""
    rows = read_metrics(Path(run_folder)) if run_folder else []
    return int(rows[-1]["step"]) if rows else None
