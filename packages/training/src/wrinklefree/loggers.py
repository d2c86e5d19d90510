"""Loggers by configuration, and the CSV file that survives interruptions.

metrics.csv has one row per logged optimizer step. Floats are written with all their digits, so two
runs can be compared to the bit. A resumed run first drops the rows after its checkpoint, so the
file is that of an uninterrupted run.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from wf_formats.atomic import atomic_write_text, errors_about
from wf_formats.run_files import METRICS_FILE, STEP
from wrinklefree.config.root import TrainConfig
from wrinklefree.errors import RunError

LOG = logging.getLogger("wrinklefree")


class CsvLogger(Logger):
    """Appends rows to `path`. Args: resume_step is the step of the checkpoint, 0 for a new run."""

    def __init__(self, path: Path, resume_step: int) -> None:
        super().__init__()
        self.path = path
        self._resume_step = resume_step
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's configuration is in run.json."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._columns is None:
            self._open()
        row = {STEP: step, **metrics}
        if new := [key for key in row if key not in self._known()]:
            self._rewrite(self.rows(), self._known() + new)
        with errors_about(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._known(), lineterminator="\n").writerow(row)

    @rank_zero_only
    def save(self) -> None:
        """Make the rows written so far durable; called before each checkpoint."""
        if self.path.is_file():
            with errors_about(self.path), self.path.open("a") as file:
                os.fsync(file.fileno())

    def rows(self) -> list[dict[str, str]]:
        """Rows of the file. A last line without its end (a killed process) is left out."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(errors="replace")
        try:
            return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
        except csv.Error as error:
            raise RunError(
                f"{self.path} is damaged: {error}. Mend it, or move it away: the run then goes on without "
                "its rows so far"
            ) from error

    def _known(self) -> list[str]:
        return self._columns or [STEP]

    def _open(self) -> None:
        kept = [row for row in self.rows() if None not in row and _step(row) <= self._resume_step]
        if missing := _missing([_step(row) for row in kept], self._resume_step):
            LOG.warning("%s lacks %s; it was changed or removed, and the run goes on", self.path, missing)
        self._rewrite(kept, list(kept[0]) if kept else [STEP])

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write_text(self.path, buffer.getvalue())
        self._columns = columns


def _step(row: Mapping[str, Any]) -> float:
    """Infinite where the cell is no step, so that the row is left out."""
    value = row.get(STEP) or ""
    return int(value) if value.isascii() and value.isdigit() else math.inf


def _missing(steps: list[float], resume_step: int) -> str | None:
    """Steps until `resume_step` that a file should have rows of: the first, and one every spacing after."""
    if resume_step and steps[:1] != [1]:
        return f"the steps before {steps[0] if steps else resume_step + 1:.0f}"
    spacing = max((after - before for before, after in pairwise(steps)), default=math.inf)
    is_cut = bool(steps) and resume_step - steps[-1] >= max(spacing, 2)
    return f"the steps {steps[-1] + 1:.0f} to {resume_step}" if is_cut else None


def build_loggers(
    config: TrainConfig, run_folder: Path, meta: Mapping[str, Any], resume_step: int
) -> list[Logger]:
    """Loggers of a run, ready to write. Raises: RunError where Weights & Biases cannot be reached."""
    loggers: list[Logger] = []
    if config.logging.csv:
        loggers.append(CsvLogger(run_folder / METRICS_FILE, resume_step))
    if config.logging.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run_folder, name="tensorboard", version=""))
    if config.logging.wandb:
        loggers.append(_wandb(config, run_folder, meta))
    return loggers


def _wandb(config: TrainConfig, run_folder: Path, meta: Mapping[str, Any]) -> Logger:
    """By `meta["fingerprint"]` Weights & Biases continues the same run when resuming.

    The run is opened here: Lightning would do so at the first step, when the models are loaded.
    """
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    chosen = config.logging.wandb_options
    kind: Any = WandbLogger
    run_folder.mkdir(parents=True, exist_ok=True)
    logger: Logger = kind(
        project=chosen.project,
        entity=chosen.entity,
        mode=chosen.mode.value,
        name=f"{config.experiment}-{config.training.stage}",
        id=meta["fingerprint"][:16],
        save_dir=run_folder,
        resume="allow",
    )
    try:
        _ = logger.experiment  # type: ignore[attr-defined]
    except wandb.Error as error:
        raise RunError(
            f"logging.wandb: {error}. Log in (wandb login, or the variable WANDB_API_KEY), or keep the run "
            "on this machine with logging.wandb_options.mode=offline"
        ) from error
    return logger
