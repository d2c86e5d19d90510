"""Loggers by configuration, and the CSV file that survives interruptions.

metrics.csv has one row per logged optimizer step. Floats are written with all their digits, so two
runs can be compared to the bit. A resumed run first drops the rows after its checkpoint, so the
file is that of an uninterrupted run.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from wf_formats.atomic import atomic_write_text
from wrinklefree.config.root import TrainConfig

STEP = "step"


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
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._known(), lineterminator="\n").writerow(row)

    @rank_zero_only
    def save(self) -> None:
        """Make the rows written so far durable; called before each checkpoint."""
        if self.path.is_file():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def rows(self) -> list[dict[str, str]]:
        """Rows of the file. A last line without its end (a killed process) is left out."""
        if not self.path.is_file():
            return []
        text = self.path.read_text()
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))

    def _known(self) -> list[str]:
        return self._columns or [STEP]

    def _open(self) -> None:
        kept = [row for row in self.rows() if int(row[STEP]) <= self._resume_step]
        self._rewrite(kept, list(kept[0]) if kept else [STEP])

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write_text(self.path, buffer.getvalue())
        self._columns = columns


def build_loggers(
    config: TrainConfig, run_folder: Path, meta: Mapping[str, Any], resume_step: int
) -> list[Logger]:
    """Loggers of a run. By `meta["fingerprint"]` Weights & Biases continues the same run when resuming."""
    loggers: list[Logger] = []
    options = config.logging
    if options.csv:
        loggers.append(CsvLogger(run_folder / "metrics.csv", resume_step))
    if options.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run_folder, name="tensorboard", version=""))
    if options.wandb:
        from lightning.pytorch.loggers import WandbLogger

        wandb: Any = WandbLogger
        chosen = options.wandb_options
        loggers.append(
            wandb(
                project=chosen.project,
                entity=chosen.entity,
                mode=chosen.mode,
                name=f"{config.experiment}-{config.training.stage}",
                id=meta["fingerprint"][:16],
                save_dir=run_folder,
                resume="allow",
            )
        )
    return loggers
