"""`model`: the dense model, how it becomes ternary, and its teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from wf_formats.packaged import ModelSource


@dataclass
class ModelConfig:
    source: ModelSource = MISSING
    """hub (Hugging Face id), path (folder) or packaged (SmolLM2-135M-Instruct)."""
    name: str | None = None
    """Hub id or folder; null for the packaged model."""
    scheme: str = "tensor"
    """Scale granularity of the ternary weights: tensor, group64 or group128."""
    sub_norm: bool = True
    """Insert fitted SubLN before the attention output and down projections (needs tensor)."""
    teacher: Any = field(default_factory=dict)
    """Options of the teacher; typed by the teacher of its `kind` when the configuration is composed."""


@dataclass
class TeacherConfig:
    """Fields of every teacher."""

    kind: str = "local"
    """Which teacher: a name of the entry points `wrinklefree.teachers`."""
