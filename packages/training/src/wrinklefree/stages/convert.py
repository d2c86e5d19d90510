"""Stage 1: convert the dense model and fit SubLN. No gradient, no optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wrinklefree.config.fit import FitConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import StageConfig
from wrinklefree.stages.base import LOGGERS, WITHOUT_GRADIENTS, Outcome, Stage, StageContext

if TYPE_CHECKING:
    from wrinklefree.stages.conversion import DenseModel


@dataclass
class ConvertConfig(StageConfig):
    stage: str = "stage1"
    fit: FitConfig = field(default_factory=FitConfig)


class Convert(Stage):
    number = "1"
    title = "converts the dense model and fits SubLN; no gradient"
    option = "stage1_subln"
    config = ConvertConfig
    unused_keys = (*WITHOUT_GRADIENTS, *LOGGERS)

    def open(self, config: TrainConfig) -> DenseModel:
        from wrinklefree.stages.conversion import open_source

        assert isinstance(config.training, ConvertConfig)
        return open_source(config, config.training.fit)

    def run(self, context: StageContext) -> Outcome:
        from wrinklefree.stages.conversion import run_conversion

        return Outcome(run_conversion(context.config, context.opened, context.run.final, context.meta))
