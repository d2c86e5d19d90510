"""Files of a run: their names, the last lines of a log, metrics.csv, and progress.json while it works."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from wf_formats.atomic import atomic_write_json
from wf_formats.errors import LoadError
from wf_formats.file_names import META_FILE

FINAL = "final"
"""Folder of a run's result."""
RUN_FILE = "run.json"
"""What makes the run this run, and the fingerprint that its checkpoints carry."""
MANIFEST_FILE = "manifest.json"
"""Of a checkpoint; its digest names the exact contents, in the run.json of the stage that went on from it."""
FIGURES_FILE = "figures.json"
"""Of a result, written after its manifest, whose digest must not depend on how long the run took."""
METRICS_FILE = "metrics.csv"
STEP = "step"
"""The column that every row has."""
PROGRESS_FILE = "progress.json"
"""Where a run stands; there while it works, and after a process that was killed."""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` of what it works on, such as "blocks".

    detail: for people; left_s: of the whole run from `written_s` (of time.time()) on, if known.
    """

    what: str
    done: int
    total: int
    detail: str = ""
    left_s: float | None = None
    written_s: float = dataclasses.field(default_factory=time.time)


def write_progress(run_folder: Path, progress: Progress) -> None:
    atomic_write_json(run_folder / PROGRESS_FILE, dataclasses.asdict(progress))


def remove_progress(run_folder: Path) -> None:
    (run_folder / PROGRESS_FILE).unlink(missing_ok=True)


def read_progress(run_folder: Path) -> Progress | None:
    """None where the run has written none, or is done. Raises: LoadError for what no run wrote."""
    path = run_folder / PROGRESS_FILE
    try:
        return Progress(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise LoadError(f"{path} is damaged: {error}") from error


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


def is_complete(run_folder: Path) -> bool:
    """Whether a run has its result: `final` is renamed into place when everything in it is written."""
    return (run_folder / FINAL / META_FILE).is_file()


def read_metrics(run_folder: Path) -> list[dict[str, float]]:
    """Rows of a run's metrics.csv that have a step; empty cells are left out. No file: no rows.

    A last line that is still being written counts as far as it goes.

    Raises:
        LoadError: the file was changed by something else than the run; names the line.
    """
    path = run_folder / METRICS_FILE
    if not path.is_file():
        return []
    try:
        text = path.read_bytes().decode()
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LoadError(f"{path} is damaged: {error}") from error
    if not lines:
        return []
    columns = lines[0]
    if STEP not in columns and text.endswith("\n"):
        raise LoadError(f"{path} is damaged: its first line {','.join(columns)!r:.60} names no step")
    rows = [_row(path, columns, cells, number) for number, cells in enumerate(lines[1:-1], 2)]
    if len(lines) > 1:
        rows.append(_last_row(path, columns, lines[-1], len(lines), is_whole=text.endswith("\n")))
    _check_order(path, rows)
    return [row for row in rows if STEP in row]


def _row(path: Path, columns: list[str], cells: list[str], number: int) -> dict[str, float]:
    if len(cells) != len(columns):
        raise LoadError(f"{path} is damaged: line {number} has {len(cells)} cells, not {len(columns)}")
    try:
        return {key: float(cell) for key, cell in zip(columns, cells, strict=True) if cell}
    except ValueError as error:
        raise LoadError(f"{path} is damaged: line {number}: {error}") from error


def _last_row(
    path: Path, columns: list[str], cells: list[str], number: int, is_whole: bool
) -> dict[str, float]:
    if is_whole:
        return _row(path, columns, cells, number)
    return _row(path, columns[: len(cells)], [cell if _is_number(cell) else "" for cell in cells], number)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_order(path: Path, rows: list[dict[str, float]]) -> None:
    steps = [row[STEP] for row in rows[:-1] if STEP in row]
    for before, after in pairwise(steps):
        if not before < after:
            raise LoadError(f"{path} is damaged: step {after:g} comes after step {before:g}")
