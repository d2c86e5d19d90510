"""`logging`: what is written where while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class ProgressBar(StrEnum):
    auto = "auto"
    rich = "rich"
    tqdm = "tqdm"
    none = "none"


@dataclass
class WandbConfig:
    project: str = "wrinklefree"
    entity: str | None = None
    mode: str = "online"
    """online, offline or disabled."""


@dataclass
class LoggingConfig:
    every_steps: int = 1
    """Steps between rows of metrics.csv (and of the other loggers)."""
    console_every_steps: int = 10
    """Steps between log lines on the console."""
    progress_bar: ProgressBar = ProgressBar.auto
    """auto: rich on a terminal, none elsewhere (the log lines tell the progress)."""
    csv: bool = True
    tensorboard: bool = False
    wandb: bool = False
    wandb_options: WandbConfig = field(default_factory=WandbConfig)
