"""`training.mixture`: whether the weights of the sources change while a model trains, and by what.

training.mixture.policy=influence
training.mixture.influence.probes=[{kind: path, name: exam, location: exam.jsonl}]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from data_handler.config import SourceConfig
from wrinklefree.config.ranges import MAX_SEQUENCES, MAX_STEPS, number


class Policy(StrEnum):
    fixed = "fixed"
    """The configured weights."""
    uniform = "uniform"
    """Every source the same."""
    odm = "odm"
    """Sources with a high loss more (mixture/odm.py)."""
    influence = "influence"
    """The mixture whose gradient points where the probes' does (mixture/influence.py)."""

    @property
    def moves(self) -> bool:
        """Whether weights change after the first step."""
        return self in (Policy.odm, Policy.influence)


class Projection(StrEnum):
    """How weights outside of the bounds come to them (mixture/simplex.py)."""

    euclidean = "euclidean"
    kl = "kl"


@dataclass
class OdmConfig:
    smoothing: float = number(0.9, least=0, below=1)
    """Share of the estimated reward that stays from one turn to the next."""


@dataclass
class InfluenceConfig:
    probes: list[SourceConfig] = field(default_factory=list)
    """Texts that the model shall become good at, as sources of their own; `weight` is what a probe counts.
    None of their documents may be in the training data."""
    sequences: int = number(8, least=1, most=MAX_SEQUENCES)
    """Of each source that a turn takes gradients of, in passes of training.batch_size at most (the number is
    rounded up to whole ones)."""
    probe_sequences: int = number(24, least=1, most=MAX_SEQUENCES)
    """Of each probe, in passes as large. All sources are compared with it, so its chance is that of all."""
    matrices: list[str] = field(default_factory=list)
    """Names of the weights whose gradients are compared, patterns with * allowed; empty: every linear of the
    blocks."""
    sketch_size: int = number(8192, least=1, most=2**24)
    """Numbers that a gradient becomes."""
    step_size: float = number(10.0, least=0, most=1e6)
    """eta: what a cosine of 1 is worth in relative entropy (nats) to the configured weights."""
    ema_decay: float = number(0.9, least=0, below=1)
    """Of the gradients' inner products, from one turn to the next."""
    precondition: bool = True
    """Divide gradients by the root of the optimizer's second moments, where it has them."""


@dataclass
class MixtureConfig:
    policy: Policy = Policy.fixed
    every_steps: int | None = number(None, least=1, most=MAX_STEPS)
    """The policy takes a turn after each multiple of so many steps; null: 200, and of policy=influence as
    many as make scoring cost less than a tenth of the run (mixture/turns.py)."""
    first_step: int | None = number(None, least=1, most=MAX_STEPS)
    """The first turn comes after this one; null: after `every_steps`, and of policy=influence after 20 if
    that is sooner, since what it finds serves all steps that follow."""
    floor: float = number(0.05, least=0, most=1)
    """Least share of a source, of policies that move."""
    cap: float = number(0.6, above=0, most=1)
    """Largest share of a source."""
    projection: Projection = Projection.euclidean
    odm: OdmConfig = field(default_factory=OdmConfig)
    influence: InfluenceConfig = field(default_factory=InfluenceConfig)
