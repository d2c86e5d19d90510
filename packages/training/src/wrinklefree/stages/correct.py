"""Stage 2.5: add a low-rank correction to every ternary linear. No gradient; the ternary weights stay."""

from __future__ import annotations

from dataclasses import dataclass, field

from wrinklefree.config.low_rank import LowRankConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import ContinuingConfig
from wrinklefree.stages.base import LOGGERS, WITHOUT_GRADIENTS, Outcome, Stage, StageContext


@dataclass
class CorrectConfig(ContinuingConfig):
    stage: str = "stage2_5"
    accept_from: list[str] = field(default_factory=lambda: ["stage2", "stage1_9", "stage1_5", "stage1"])
    low_rank: LowRankConfig = field(default_factory=LowRankConfig)


class Correct(Stage):
    number = "2.5"
    title = "corrects the ternary linears by low-rank matrices, in closed form"
    option = "stage2_5_correct"
    config = CorrectConfig
    unused_keys = (*WITHOUT_GRADIENTS, *LOGGERS)

    def open(self, config: TrainConfig) -> None:
        from wrinklefree.predecessor import previous_folder
        from wrinklefree.stages.correction import check_rank_of

        assert isinstance(config.training, CorrectConfig)
        check_rank_of(previous_folder(config, config.training), config.training.low_rank.rank)

    def run(self, context: StageContext) -> Outcome:
        from wrinklefree.stages.correction import run_correction

        training = context.config.training
        assert isinstance(training, CorrectConfig)
        return Outcome(run_correction(context, training.low_rank))
