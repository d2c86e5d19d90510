"""`model`: the dense model, how it becomes ternary, and its teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from wf_formats.packaged import ModelSource
from wf_formats.schemes import GROUP_SIZES


@dataclass
class ModelConfig:
    source: ModelSource = MISSING
    """hub (Hugging Face id), path (folder) or packaged (SmolLM2-135M-Instruct)."""
    name: str | None = None
    """Hub id or folder; null for the packaged model."""
    scheme: str = "tensor"
    """Scale granularity of the ternary weights: tensor, group64 or group128."""
    sub_norm: bool | None = None
    """Insert fitted SubLN before the attention output and down projections; null: what the scheme needs
    (tensor: yes; group64, group128: no)."""
    allow_unservable: bool = False
    """Convert a model all the same that can neither be exported nor served; stage 1 alone asks."""
    teacher: Any = field(default_factory=dict)
    """Options of the teacher; typed by the teacher of its `kind` when the configuration is composed."""

    def resolve(self) -> None:
        """Give sub_norm the scheme's value; that of another package's scheme is its quantizer's to say."""
        if self.sub_norm is None and self.scheme in GROUP_SIZES:
            self.sub_norm = GROUP_SIZES[self.scheme] is None


@dataclass
class TeacherConfig:
    """Fields of every teacher."""

    kind: str = "local"
    """Which teacher: a name of the entry points `wrinklefree.teachers`."""
