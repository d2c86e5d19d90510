"""`model`: the dense model, how it becomes ternary, and its teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from wf_formats.packaged import ModelSource
from wf_formats.schemes import FULL_PRECISION, SCHEMES, group_size
from wrinklefree.config.errors import ConfigError


@dataclass
class ModelConfig:
    source: ModelSource = MISSING
    """hub (Hugging Face id), path (folder) or packaged (SmolLM2-135M-Instruct)."""
    name: str | None = None
    """Hub id or folder; null for the packaged model."""
    scheme: str = "tensor"
    """Scale granularity of the ternary weights: tensor, group64 or group128; of weights of 4 bits:
    int4-group128, -group64 or -group32, with zero points int4-group64-zero and so on; fairy2-w1, fairy2-w2,
    levels4; none: the dense model is trained as it is, in full precision."""
    sub_norm: bool | None = None
    """Insert fitted SubLN before the attention output and down projections; null: what the scheme needs
    (tensor: yes; all others: no)."""
    allow_unservable: bool = False
    """Convert a model all the same that can neither be exported nor served; stage 1 alone asks."""
    teacher: Any = field(default_factory=dict)
    """Options of the teacher; typed by the teacher of its `kind` when the configuration is composed."""

    def resolve(self) -> None:
        """Give sub_norm the scheme's value; that of another package's scheme is its quantizer's to say.

        Raises: ConfigError for SubLN in a model that stays as it is.
        """
        if self.is_dense and self.sub_norm:
            raise ConfigError(
                f"model.sub_norm=true with model.scheme={FULL_PRECISION}: SubLN belongs to ternary linears, "
                "and there are none; leave model.sub_norm out, or choose model.scheme=tensor"
            )
        if self.sub_norm is None and self.scheme in SCHEMES:
            self.sub_norm = group_size(self.scheme) is None
        if self.sub_norm is None and self.is_dense:
            self.sub_norm = False

    @property
    def is_dense(self) -> bool:
        """Whether the weights stay in full precision."""
        return self.scheme == FULL_PRECISION


@dataclass
class TeacherConfig:
    """Fields of every teacher."""

    kind: str = "local"
    """Which teacher: a name of the entry points `wrinklefree.teachers`."""
