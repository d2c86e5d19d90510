"""`logging`: what is written where while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from wrinklefree.config.ranges import number


class ProgressBar(StrEnum):
    auto = "auto"
    rich = "rich"
    tqdm = "tqdm"
    none = "none"


class WandbMode(StrEnum):
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class WandbConfig:
    project: str = "wrinklefree"
    entity: str | None = None
    mode: WandbMode = WandbMode.online


@dataclass
class LoggingConfig:
    every_steps: int = number(1, least=1)
    """Steps between rows of metrics.csv (and of the other loggers)."""
    console_every_steps: int = number(10, least=1)
    """Steps between log lines on the console."""
    progress_bar: ProgressBar = ProgressBar.auto
    """auto: rich on a terminal, none elsewhere (the log lines tell the progress)."""
    csv: bool = True
    tensorboard: bool = False
    wandb: bool = False
    wandb_options: WandbConfig = field(default_factory=WandbConfig)
