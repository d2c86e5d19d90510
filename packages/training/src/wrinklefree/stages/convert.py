"""Stage 1: convert the dense model and fit SubLN. No gradient, no optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field

from wrinklefree.config.fit import FitConfig
from wrinklefree.config.training import StageConfig
from wrinklefree.stages.base import WITHOUT_GRADIENTS, Outcome, Stage, StageContext

_LOGGERS = ("logging.csv", "logging.tensorboard", "logging.wandb", "logging.wandb_options")


@dataclass
class ConvertConfig(StageConfig):
    stage: str = "stage1"
    fit: FitConfig = field(default_factory=FitConfig)


class Convert(Stage):
    number = "1"
    title = "converts the dense model and fits SubLN; no gradient"
    option = "stage1_subln"
    config = ConvertConfig
    unused_keys = (*WITHOUT_GRADIENTS, *_LOGGERS)

    def run(self, context: StageContext) -> Outcome:
        from wrinklefree.stages.conversion import run_conversion

        training = context.config.training
        assert isinstance(training, ConvertConfig)
        return Outcome(run_conversion(context.config, training.fit, context.run.final, context.meta))
