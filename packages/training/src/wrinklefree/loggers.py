"""Loggers by configuration, and the CSV file that survives interruptions.

metrics.csv has one row per logged optimizer step. Floats are written with all their digits, so two
runs can be compared to the bit. A resumed run first drops the rows after its checkpoint, so the
file is that of an uninterrupted run.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from wf_formats.atomic import atomic_write_text
from wrinklefree.config.root import TrainConfig
from wrinklefree.errors import RunError

LOG = logging.getLogger("wrinklefree")
STEP = "step"
_WHOLE = re.compile(r"\d{1,18}")


class CsvLogger(Logger):
    """Appends rows to `path`.

    Args:
        resume_step: step of the checkpoint, 0 for a new run.
        every_steps: how many steps a row is written after.

    Raises: RunError for a file of a run to resume that cannot be read.
    """

    def __init__(self, path: Path, resume_step: int, every_steps: int = 1) -> None:
        super().__init__()
        self.path = path
        self._resume_step = resume_step
        if resume_step:
            _warn_of_gaps(path, self._kept(), resume_step, every_steps)
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
        text = self.path.read_text(errors="replace")
        try:
            return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
        except csv.Error as error:
            raise RunError(_damaged(self.path, str(error))) from error

    def _known(self) -> list[str]:
        return self._columns or [STEP]

    def _open(self) -> None:
        kept = self._kept()
        self._rewrite(kept, list(kept[0]) if kept else [STEP])

    def _kept(self) -> list[dict[str, str]]:
        """Rows that the checkpoint knows; none for a new run, whatever is in the file."""
        if not self._resume_step:
            return []
        rows = self.rows()
        for number, row in enumerate(rows, 2):
            if not _is_row(row):
                raise RunError(_damaged(self.path, f"line {number} is no row of a run's metrics"))
        return [row for row in rows if int(row[STEP]) <= self._resume_step]

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write_text(self.path, buffer.getvalue())
        self._columns = columns


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path} is damaged: {what}. Mend it, or move it away: the run then goes on without its rows so far"
    )


def _is_row(row: dict[Any, Any]) -> bool:
    """Whether all of a line's cells are below a name of the first line, and its step is a number."""
    return None not in row and None not in row.values() and bool(_WHOLE.fullmatch(row.get(STEP, "")))


def _warn_of_gaps(path: Path, rows: list[dict[str, str]], resume_step: int, every_steps: int) -> None:
    steps = {int(row[STEP]) for row in rows}
    wanted = {1, *range(every_steps, resume_step + 1, every_steps)}
    if missing := sorted(wanted - steps):
        LOG.warning(
            "%s lacks %d rows up to step %d (the first: step %d): the file or logging.every_steps was "
            "changed since the run began. The run goes on; what is drawn from the file has a gap.",
            path,
            len(missing),
            resume_step,
            missing[0],
        )


def build_loggers(
    config: TrainConfig, run_folder: Path, meta: Mapping[str, Any], resume_step: int
) -> list[Logger]:
    """Loggers of a run, ready to write. Raises: RunError where Weights & Biases cannot be reached."""
    loggers: list[Logger] = []
    if config.logging.csv:
        loggers.append(CsvLogger(run_folder / "metrics.csv", resume_step, config.logging.every_steps))
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
