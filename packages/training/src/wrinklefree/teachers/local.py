"""The dense model in this process: frozen, as a rule the one that was converted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from wf_formats.packaged import ModelSource
from wrinklefree.capture import EVERY_LAYER, Capture, ForwardResult, View
from wrinklefree.config.model import ModelConfig, TeacherConfig
from wrinklefree.teachers.base import Teacher

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger("wrinklefree")


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class LocalTeacherConfig(TeacherConfig):
    """Source and name unset: the model that was converted."""

    source: ModelSource | None = None
    """Where the teacher comes from; null means the source and name of `model`."""
    name: str | None = None
    """Hub id or folder of the teacher."""
    dtype: Dtype = Dtype.float32
    """Dtype of the frozen teacher in memory."""


class LocalTeacher(Teacher):
    """Args: model is a causal language model; it is frozen."""

    config = LocalTeacherConfig
    provides = Capture(hidden_states=EVERY_LAYER, qkv=EVERY_LAYER, logits=True)

    def __init__(self, model: Any) -> None:
        from wrinklefree.forward import shape_of

        self.model = model.eval().requires_grad_(False)
        self.shape = shape_of(model)

    @classmethod
    def load(cls, config: LocalTeacherConfig, model: ModelConfig) -> LocalTeacher:
        import torch

        from wrinklefree.dense import load_dense_model

        source = config.source or model.source
        name = config.name if config.source else model.name
        LOG.info("loading the teacher: %s %s", source.value, name or "")
        return cls(load_dense_model(source, name, getattr(torch, config.dtype.value))[0])

    def forward(self, view: View, capture: Capture) -> ForwardResult:
        import torch

        from wrinklefree.forward import run_forward

        with torch.no_grad():
            return run_forward(self.model, view, capture)

    def to(self, device: torch.device) -> None:
        self.model.to(device)
