"""Estimators of influence: how much a training example would lower the loss on a probe.

All have one sign: HIGHER helps the probe. They work on sketches of gradients (gradients.py), train [n, size]
and probe [m, size] of one checkpoint, or [checkpoints, n, size] and [checkpoints, m, size] of several, in the
dtype that these have. A row of the probe is a document, a sequence or a whole set.

    TracIn                sum_c lr_c <g_i, v>          what steps of SGD would do
    DataInf               <H^-1 v, g_i>                influence function in closed form
    PreconditionedCosine  mean_j cos(P g_i, P v_j)     P = 1 / (sqrt(second moments) + eps), so P^2 is the
                                                       inverse of the curvature's diagonal, as Adam knows it
    Less                  sum_c lr_c cos(Adam(g_i), v) what steps of Adam would do, without lengths

v is the mean of the probe's rows. Cost: n times the size, of DataInf four times that.

Sources: Pruthi et al. 2020 (TracIn, arXiv 2002.08484), Kwon et al. 2024 (DataInf, 2310.00902), Xia et al.
2024 (LESS, 2402.04333).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from data_handler.errors import DataError, DataRequestError
from data_handler.influence.preconditioners import GradientKind


class Estimator(Protocol):
    """
    Attributes:
        train_kind, probe_kind: which gradients the sketches are to be of.
        num_checkpoints: of how many the sketches are.
    """

    train_kind: GradientKind
    probe_kind: GradientKind

    @property
    def num_checkpoints(self) -> int: ...

    def scores(self, train: Tensor, probe: Tensor) -> Tensor:
        """[n, size] and [m, size], or [checkpoints, n, size] and [checkpoints, m, size] -> [n]; higher helps.

        Raises:
            DataRequestError: shapes that do not fit each other or the number of checkpoints.
            DataError: sketches that are not finite.
        """
        ...


class _OverCheckpoints:
    """Sums over checkpoints, each weighed with its learning rate."""

    def __init__(self, learning_rates: Sequence[float] = (1.0,)) -> None:
        rates = [float(rate) for rate in learning_rates]
        if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise DataRequestError(
                f"learning_rates is {list(learning_rates)}; give one above 0 for each checkpoint"
            )
        self.learning_rates = rates

    @property
    def num_checkpoints(self) -> int:
        return len(self.learning_rates)

    def scores(self, train: Tensor, probe: Tensor) -> Tensor:
        train, probe = _checked(train, probe, self.num_checkpoints)
        rates = zip(self.learning_rates, train, probe, strict=True)
        return torch.stack([rate * self._of_checkpoint(t, p) for rate, t, p in rates]).sum(0)

    def _of_checkpoint(self, train: Tensor, probe: Tensor) -> Tensor:
        """[n, size], [m, size] -> [n]."""
        raise NotImplementedError


class TracIn(_OverCheckpoints):
    """Inner products with the probe's mean gradient; long gradients (short, odd texts) count more."""

    train_kind = GradientKind.plain
    probe_kind = GradientKind.plain

    def _of_checkpoint(self, train: Tensor, probe: Tensor) -> Tensor:
        return train @ probe.mean(0)


class Less(_OverCheckpoints):
    """Cosines of Adam's steps with the probe's mean gradient."""

    train_kind = GradientKind.direction
    probe_kind = GradientKind.plain

    def _of_checkpoint(self, train: Tensor, probe: Tensor) -> Tensor:
        return _unit(train) @ _unit(probe.mean(0))


class _OneCheckpoint:
    @property
    def num_checkpoints(self) -> int:
        return 1


class PreconditionedCosine(_OneCheckpoint):
    """Cosines with each of the probe's rows, averaged: each row counts the same."""

    train_kind = GradientKind.scaled
    probe_kind = GradientKind.scaled

    def scores(self, train: Tensor, probe: Tensor) -> Tensor:
        (train,), (probe,) = _checked(train, probe, 1)
        return _unit(train) @ _unit(probe).mean(0)


class DataInf(_OneCheckpoint):
    """Influence functions, the inverse of the mean taken as the mean of the inverses:

        H^-1 v = (1 / n) sum_i (g_i g_i^T + damping)^-1 v
               = (1 / (n damping)) sum_i [v - <v, g_i> g_i / (damping + |g_i|^2)]

    The sketch is one block; the published form has one for each layer.

    Args:
        damping: of the squares' mean over all numbers of the training sketches (0.1 in the paper).
    """

    train_kind = GradientKind.plain
    probe_kind = GradientKind.plain

    def __init__(self, damping: float = 0.1) -> None:
        if not (math.isfinite(damping) and damping > 0):
            raise DataRequestError(f"damping is {damping}; give a number above 0 (0.1 is usual)")
        self.damping = damping

    def scores(self, train: Tensor, probe: Tensor) -> Tensor:
        """Raises: DataError if all training gradients are zero, beside what `Estimator` says."""
        (train,), (probe,) = _checked(train, probe, 1)
        damping = self.damping * train.square().mean()
        if damping == 0:
            raise DataError(
                "all training gradients are zero: no label is in the examples, or none reaches them"
            )
        direction = probe.mean(0)
        shares = (train @ direction) / (damping + train.square().sum(1))
        return train @ ((direction - (shares @ train) / len(train)) / damping)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "tracin": TracIn,
    "datainf": DataInf,
    "preconditioned_cosine": PreconditionedCosine,
    "less": Less,
}
"""By the names that command lines and configurations use."""


def _unit(vectors: Tensor) -> Tensor:
    """[..., size], each of length 1; zeros stay zeros."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(lengths == 0, 1, lengths)


def _checked(train: Tensor, probe: Tensor, num_checkpoints: int) -> tuple[Tensor, Tensor]:
    """Both as [checkpoints, rows, size]."""
    shapes = f"train {list(train.shape)} and probe {list(probe.shape)}"
    if train.dim() != probe.dim() or train.dim() not in (2, 3):
        raise DataRequestError(
            f"sketches are {shapes}; give [n, size] and [m, size], or both with checkpoints before"
        )
    if train.dim() == 2:
        train, probe = train[None], probe[None]
    if not len(train) == len(probe) == num_checkpoints:
        raise DataRequestError(
            f"sketches are {shapes}, and the estimator is for {num_checkpoints} checkpoint(s)"
        )
    if train.shape[2] != probe.shape[2] or not train.shape[1] or not probe.shape[1]:
        raise DataRequestError(f"sketches are {shapes}; both need rows, of one size")
    for name, sketches in (("training", train), ("probe", probe)):
        if not torch.isfinite(sketches).all():
            row = int((~torch.isfinite(sketches)).any(2).nonzero()[0, 1])
            raise DataError(f"the sketch of {name} row {row} is not finite; leave it out, or mend the model")
    return train, probe
