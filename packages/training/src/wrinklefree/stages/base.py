"""The interface of a stage.

The file of a stage holds its schema and its `Stage`, and imports no PyTorch at the top: the work is
imported in `run`. It is registered under its number as an entry point "wrinklefree.stages" (plugins.py);
the schema becomes the option `training=<option>`, whose defaults are the schema's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import ContinuingConfig, StageConfig

if TYPE_CHECKING:
    from wrinklefree.run_folder import RunFolder
    from wrinklefree.uploads.run_uploads import RunUploads

WITHOUT_GRADIENTS = (
    "optimizer",
    "distributed",
    "resume",
    "data.num_workers",
    "data.num_shares",
    "model.teacher",
    "logging.every_steps",
    "logging.console_every_steps",
)
LOGGERS = ("logging.csv", "logging.tensorboard", "logging.wandb", "logging.wandb_options")
"""Of a stage without steps."""


@dataclass(frozen=True)
class StageContext:
    """What a stage works with.

    start: verified checkpoint to go on from; None: a stage that starts from the dense model.
    meta: entries of wrinklefree.json that every checkpoint of the run gets.
    opened: what the stage's `open` gave.
    uploads: where its checkpoints go besides, of the first process; None: nowhere.
    """

    config: TrainConfig
    run: RunFolder
    start: Path | None
    meta: dict[str, Any]
    opened: Any = None
    uploads: RunUploads | None = None

    @property
    def checkpoint(self) -> Path:
        """`start` of a stage that goes on from another."""
        assert self.start is not None
        return self.start


@dataclass(frozen=True)
class Outcome:
    """figures: for summary.json; signal: number of the signal that stopped the stage, if one did."""

    figures: dict[str, Any]
    signal: int | None = None


class Stage(ABC):
    number: ClassVar[str]
    """As users type it and as the entry point is called, such as "1.5"; stages are ordered by it. A word
    where the stage is none of the chain's: it comes last."""
    title: ClassVar[str]
    """One line for the help."""
    option: ClassVar[str]
    """Name of the Hydra option: `training=<option>`."""
    config: ClassVar[type[StageConfig]]
    """Schema and defaults of `training`."""
    unused_keys: ClassVar[tuple[str, ...]] = WITHOUT_GRADIENTS
    """Groups and keys ("data.num_workers") of the configuration that do not concern this stage;
    overriding them, or a key below them, is refused."""
    keeps_corrections: ClassVar[bool] = False
    """Whether it can start from a checkpoint with low-rank corrections; one that cannot refuses it."""
    takes_diffusion: ClassVar[bool] = False
    """Whether it can go on from a block-diffusion model; one that cannot refuses it."""
    infrastructure_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of `training` that do not change the result (identity.py)."""

    @property
    def name(self) -> str:
        """As folders and checkpoints call it, such as "stage1_5"; a word is called what it is."""
        return f"stage{self.number.replace('.', '_')}" if self._is_numbered else self.number

    @property
    def order(self) -> tuple[float, ...]:
        return tuple(map(int, self.number.split("."))) if self._is_numbered else (math.inf,)

    @property
    def _is_numbered(self) -> bool:
        return self.number[0].isdigit()

    @property
    def accepts(self) -> list[str]:
        """Names of the stages whose result it takes by default, best first; empty: the dense model."""
        defaults = self.config()
        return defaults.accept_from if isinstance(defaults, ContinuingConfig) else []

    @property
    def needs_one_process(self) -> bool:
        """Whether further processes (torchrun) have nothing to do."""
        return "distributed" in self.unused_keys

    def check(self, config: TrainConfig) -> None:  # noqa: B027 (a stage may have nothing to check)
        """Raises: ConfigError (values of `training` that contradict each other or cannot be)."""

    def open(self, config: TrainConfig) -> Any:  # noqa: B027 (a stage may have nothing to open)
        """Open what the stage reads besides its start, before anything of the run is written.

        Raises: UserError (what cannot be used).
        """

    @abstractmethod
    def run(self, context: StageContext) -> Outcome:
        """Do the work and write `context.run.final`, unless stopped by a signal."""
