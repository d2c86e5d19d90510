"""The dense model in this process: frozen, as a rule the one that was converted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from wf_formats.content import model_digest
from wf_formats.packaged import ModelSource
from wrinklefree.capture import EVERY_LAYER, Capture, ForwardResult, View
from wrinklefree.config.lengths import gradient_options
from wrinklefree.config.model import TeacherConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import Precision
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
    dtype: Dtype | None = None
    """Dtype of the frozen teacher in memory and of its products; null: bfloat16 where training.precision is
    bf16 or int8 (half the memory, and faster where the processor multiplies bfloat16), else float32."""


def dtype_beside(precision: Precision) -> Dtype:
    """The dtype of a teacher for a student of this precision."""
    return Dtype.float32 if precision is Precision.float32 else Dtype.bfloat16


class LocalTeacher(Teacher):
    """Args: model is a causal language model; it is frozen."""

    config = LocalTeacherConfig
    provides = Capture(hidden_states=EVERY_LAYER, qkv=EVERY_LAYER, logits=True, predictions=True)

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        from wrinklefree.forward import shape_of

        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.shape = shape_of(model)

    @classmethod
    def contents(cls, config: LocalTeacherConfig) -> Mapping[str, str]:
        digest = model_digest(config.source, config.name)  # without a source it is the run's model
        return {} if digest is None else {"": digest}

    @classmethod
    def load(cls, config: LocalTeacherConfig, run: TrainConfig) -> LocalTeacher:
        import torch

        from wrinklefree.dense import load_dense_model

        source = config.source or run.model.source
        name = config.name if config.source else run.model.name
        dtype = config.dtype or dtype_beside(gradient_options(run).precision)
        LOG.info("loading the teacher: %s %s, %s", source.value, name or "", dtype.value)
        return cls(*load_dense_model(source, name, getattr(torch, dtype.value)))

    def forward(self, view: View, capture: Capture) -> ForwardResult:
        import torch

        from wrinklefree.forward import run_forward

        with torch.no_grad():
            return run_forward(self.model, view, capture)

    def to(self, device: torch.device) -> None:
        """On a GPU it computes by kernels, which round some sums otherwise; on a CPU its answers stay
        transformers' own to the bit."""
        import bitnet_arch

        self.model.to(device)
        if device.type != "cpu":
            bitnet_arch.use_kernels(self.model)
