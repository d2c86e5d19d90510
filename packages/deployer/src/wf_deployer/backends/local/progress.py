"""How far a training run is, from the files it writes."""

from __future__ import annotations

from pathlib import Path

from wf_formats.run_files import read_metrics


def last_step(run_folder: str | None) -> int | None:
    """Last optimizer step in the metrics of a run folder; None: no metrics yet."""
    rows = read_metrics(Path(run_folder)) if run_folder else []
    return int(rows[-1]["step"]) if rows else None
