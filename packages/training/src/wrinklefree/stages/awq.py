"""AWQ: the dense model becomes one of 4-bit weights, scales and ranges chosen on text. No gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wf_formats.schemes import INT4_SCHEMES
from wrinklefree.config.awq import AwqConfig
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.fit import FitConfig
from wrinklefree.config.ranges import check_ranges
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import StageConfig
from wrinklefree.stages.base import LOGGERS, WITHOUT_GRADIENTS, Outcome, Stage, StageContext

if TYPE_CHECKING:
    from wrinklefree.stages.conversion import DenseModel


@dataclass
class AwqStageConfig(StageConfig):
    stage: str = "awq"
    awq: AwqConfig = field(default_factory=AwqConfig)


class Awq(Stage):
    number = "awq"
    title = "makes 4-bit weights of the dense model, scales and ranges chosen on text"
    option = "awq"
    config = AwqStageConfig
    unused_keys = (*WITHOUT_GRADIENTS, *LOGGERS)

    def check(self, config: TrainConfig) -> None:
        options = _options(config)
        check_ranges(options, "training.awq")
        if config.model.scheme not in INT4_SCHEMES:
            raise ConfigError(
                f"model.scheme={config.model.scheme} is not one of 4 bits, which this stage makes: "
                f"model.scheme={' or '.join(INT4_SCHEMES)} (the group has to divide the rows)"
            )
        if config.model.sub_norm:
            raise ConfigError(
                "model.sub_norm=true: no scale folds into what stands before SubLN; leave it out"
            )
        for key in ("tokens", "search_tokens"):
            if (value := getattr(options, key)) < options.sequence_length_tokens:
                raise ConfigError(
                    f"training.awq.{key}={value} is less than one sequence "
                    f"(training.awq.sequence_length_tokens={options.sequence_length_tokens})"
                )

    def open(self, config: TrainConfig) -> DenseModel:
        from wrinklefree.stages.conversion import open_source

        options = _options(config)
        text = FitConfig(options.tokens, options.sequence_length_tokens, options.evaluation_tokens)
        return open_source(config, text, "awq")

    def run(self, context: StageContext) -> Outcome:
        from wrinklefree.stages.awq_walk import run_awq

        return Outcome(run_awq(context, context.opened, _options(context.config)))


def _options(config: TrainConfig) -> AwqConfig:
    assert isinstance(config.training, AwqStageConfig)
    return config.training.awq
