"""Stage 1.5: choose ternary codes and scales on text, so that the model works before it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from wrinklefree.config.errors import ConfigError
from wrinklefree.config.ranges import check_ranges
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.ternarize import TernarizeConfig
from wrinklefree.config.training import ContinuingConfig
from wrinklefree.stages.base import Outcome, Stage, StageContext


@dataclass
class CalibrateConfig(ContinuingConfig):
    stage: str = "stage1_5"
    accept_from: list[str] = field(default_factory=lambda: ["stage1"])
    ternarize: TernarizeConfig = field(default_factory=TernarizeConfig)


class Calibrate(Stage):
    number = "1.5"
    title = "chooses ternary codes and scales on text, block by block"
    option = "stage1_5_calibrate"
    config = CalibrateConfig
    infrastructure_keys = ("training.ternarize.save_every_steps",)

    def check(self, config: TrainConfig) -> None:
        training = config.training
        assert isinstance(training, CalibrateConfig)
        check_ternarize(training.ternarize)
        if training.ternarize.keep_codes and training.start_from is None:
            raise ConfigError(
                "training.ternarize.keep_codes=true distils a result further: name it with "
                "training.start_from=FOLDER, and another experiment=NAME"
            )
        if config.model.is_dense:
            raise ConfigError(
                f"model.scheme={config.model.scheme} keeps the weights in full precision, so there are no "
                "codes to choose: go on with wf train -s 2 training.accept_from=[stage1], or -s 3"
            )

    def run(self, context: StageContext) -> Outcome:
        from wrinklefree.stages.calibration import run_calibration

        training = context.config.training
        assert isinstance(training, CalibrateConfig)
        return Outcome(run_calibration(context, training.ternarize))


def check_ternarize(options: TernarizeConfig) -> None:
    """Raises: ConfigError naming the key whose value cannot be, or does not fit the others."""
    check_ranges(options, "training.ternarize")
    if options.distil_share < 1 and options.minutes is None:
        raise ConfigError(
            f"training.ternarize.distil_share={options.distil_share:g} is a share of time, and there is no "
            "training.ternarize.minutes: give that too, or leave the share out"
        )
    if options.distil_share < 1 and options.distil_steps == 0:
        raise ConfigError(
            f"training.ternarize.distil_share={options.distil_share:g} is the distillation's share of time, "
            "and training.ternarize.distil_steps=0 has no distillation: leave one of them out"
        )
    if options.keep_codes and options.distil_steps == 0:
        raise ConfigError(
            "training.ternarize.keep_codes=true leaves the blocks as they are, and "
            "training.ternarize.distil_steps=0 has no distillation: there is nothing to do; leave one out"
        )
    if options.keep_codes:
        return
    length = options.sequence_length_tokens
    smallest = {
        "tokens": (length * options.refine_batch_size, "sequence_length_tokens times refine_batch_size"),
        "moment_tokens": (length, "sequence_length_tokens"),
    }
    for key, (least, what) in smallest.items():
        if (value := getattr(options, key)) < least:
            raise ConfigError(
                f"training.ternarize.{key}={value} is too small: at least {least} ({what} of the same group)"
            )
