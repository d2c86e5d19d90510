"""Figures that are finite, since JSON knows no others and they mean that a run has failed."""

from __future__ import annotations

import json
import math
from typing import Any

from wrinklefree.errors import DivergedError

OF_TRAINING = "the model's weights or the learning rate are at fault"
"""Why a figure is not finite where steps are taken."""


def figures_text(figures: Any, cause: str = OF_TRAINING) -> str:
    """Indented JSON. Raises: DivergedError naming a figure that is infinite or no number, and the cause."""
    check_finite(figures, cause=cause)
    return json.dumps(figures, indent=2, allow_nan=False) + "\n"


def check_finite(value: Any, where: str = "", cause: str = OF_TRAINING) -> None:
    """Raises: DivergedError naming a number below `value` that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise DivergedError(f"{where} is {value}: {cause}; no result was saved")
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        check_finite(child, f"{where}.{key}".lstrip("."), cause)


def remedy_for_divergence(num_updates: int) -> str:
    """What to change where weights, activations or gradients are no numbers after so many updates."""
    if num_updates == 0:
        return "no weight has changed yet: the objectives' weights are too high, or the model is broken"
    return "lower training.learning_rate or lengthen training.schedule.warmup"
