"""The configuration of `train.py`: the trainer's, with a scheme of this package."""

from __future__ import annotations

from pathlib import Path

from wrinklefree.compose.roots import Root
from wrinklefree.config.root import TrainConfig

_ABOUT = """Run one stage of training of a model with complex-valued weights (Fairy2i).

    {prog} -s 1 model=smollm2_135m                  # two bits a weight: model.scheme=fairy2-w2
    {prog} -s 1.5 -e one model.scheme=fairy2-w1     # one bit; levels4: two bits, real

It runs in this terminal; `wf train -s NUMBER model.scheme=fairy2-w2` is the same run."""

FAIRY2 = Root("fairy2", TrainConfig, Path(__file__).parents[2] / "configs", _ABOUT)
