"""Stage 1: convert the dense model and fit SubLN. No gradient, no optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field

from wrinklefree.config.fit import FitConfig
from wrinklefree.config.training import StageConfig
from wrinklefree.stages.base import Outcome, Stage, StageContext


@dataclass
class ConvertConfig(StageConfig):
    stage: str = "stage1"
    fit: FitConfig = field(default_factory=FitConfig)


class Convert(Stage):
    number = "1"
    title = "converts the dense model and fits SubLN; no gradient"
    option = "stage1_subln"
    config = ConvertConfig

    def run(self, context: StageContext) -> Outcome:
        from wrinklefree.stages.conversion import run_conversion

        training = context.config.training
        assert isinstance(training, ConvertConfig)
        return Outcome(run_conversion(context.config, training.fit, context.run.final, context.meta))
