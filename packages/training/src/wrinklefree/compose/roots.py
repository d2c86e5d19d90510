"""What an application composes: the trainer's own configuration, or one that builds on it.

An application of its own has a `configs/<name>.yaml` and a schema that adds groups to TrainConfig; its file
hands their values on to keys of the trainer, by interpolation. What comes out is a TrainConfig either way,
so that both are the same run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from wrinklefree.config.root import TrainConfig

_ABOUT = """Run one stage of training from a Hydra configuration.

    {prog} -s 2 model=smollm2_135m training.max_steps=50"""


@dataclass(frozen=True)
class Root:
    """name: of the file in `folder`, which takes its keys from `<name>_schema`; about: the beginning of its
    help, where {prog} is what it was called by."""

    name: str
    schema: type[TrainConfig]
    folder: Path
    about: str = _ABOUT

    def trained(self, config: TrainConfig) -> TrainConfig:
        """The trainer's part of a configuration, which holds all that has an effect."""
        names = [field.name for field in dataclasses.fields(TrainConfig)]
        return TrainConfig(**{name: getattr(config, name) for name in names})


TRAIN = Root("train", TrainConfig, Path(__file__).parents[3] / "configs")
