"""Which training data help: gradients as sketches, estimators of influence, probe sets held out of training.

    GradientSketcher   the gradient of each example, or of a batch, as a short vector (gradients.py)
    Estimator          scores of training sketches against probe sketches; higher helps (estimators.py)
    ProbeSet           documents that stand for what a model shall be good at (probes.py)

Names are loaded on first use: importing the package loads no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wf_formats.lazy import lazy_names

if TYPE_CHECKING:
    from data_handler.influence.estimators import (
        ESTIMATORS,
        DataInf,
        Estimator,
        Less,
        PreconditionedCosine,
        TracIn,
    )
    from data_handler.influence.gradients import GradientSketcher
    from data_handler.influence.losses import LossSums, next_token_losses
    from data_handler.influence.preconditioners import (
        AdamDirection,
        GradientKind,
        Preconditioner,
        SecondMoments,
    )
    from data_handler.influence.probes import ProbeSet, document_batches, hold_out
    from data_handler.influence.sketches import CountSketch

_HOMES = {
    "ESTIMATORS": "estimators",
    "AdamDirection": "preconditioners",
    "CountSketch": "sketches",
    "DataInf": "estimators",
    "Estimator": "estimators",
    "GradientKind": "preconditioners",
    "GradientSketcher": "gradients",
    "Less": "estimators",
    "LossSums": "losses",
    "Preconditioner": "preconditioners",
    "PreconditionedCosine": "estimators",
    "ProbeSet": "probes",
    "SecondMoments": "preconditioners",
    "TracIn": "estimators",
    "document_batches": "probes",
    "hold_out": "probes",
    "next_token_losses": "losses",
}
__all__ = [
    "ESTIMATORS",
    "AdamDirection",
    "CountSketch",
    "DataInf",
    "Estimator",
    "GradientKind",
    "GradientSketcher",
    "Less",
    "LossSums",
    "PreconditionedCosine",
    "Preconditioner",
    "ProbeSet",
    "SecondMoments",
    "TracIn",
    "document_batches",
    "hold_out",
    "next_token_losses",
]

__getattr__ = lazy_names(__name__, _HOMES)
