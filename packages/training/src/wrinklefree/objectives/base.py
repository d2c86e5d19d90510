"""The interface of a training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from wrinklefree.forward import Batch, ForwardResult


@dataclass
class ObjectiveResult:
    """loss: scalar with gradient; metrics: `name_unit` -> scalar without gradient."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """One term of the loss. Built from its options in wrinklefree.config.schema."""

    needs_teacher: bool = False
    """Whether `compute` wants the teacher's hidden states."""

    def preprocess_batch(self, batch: Batch) -> Batch:
        """Change the batch before the forward pass (masking, for example); default: as it is."""
        return batch

    @abstractmethod
    def compute(self, batch: Batch, student: ForwardResult, teacher: ForwardResult | None) -> ObjectiveResult:
        """Loss and metrics of one batch; teacher is given if and only if `needs_teacher`."""
