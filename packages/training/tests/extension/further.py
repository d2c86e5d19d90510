"""What another distribution may add: two stages, an objective with two views, a teacher without weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wrinklefree.capture import Capture, ForwardResult, Layers, View
from wrinklefree.config.model import TeacherConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import ContinuingConfig, GradientConfig
from wrinklefree.objectives.base import PLAIN, Objective, ObjectiveConfig, ObjectiveResult, Pass, Wish
from wrinklefree.stages.base import Outcome, Stage, StageContext
from wrinklefree.stages.gradient import GradientStage
from wrinklefree.teachers.base import Teacher


@dataclass
class DistilConfig(GradientConfig):
    stage: str = "stage9"
    accept_from: list[str] = field(default_factory=lambda: ["stage2"])
    max_steps: int | None = 2
    objectives: dict[str, Any] = field(default_factory=lambda: {"agreement": {}})


class Distil(GradientStage):
    number = "9"
    title = "agrees with a teacher"
    option = "stage9_agree"
    config = DistilConfig


@dataclass
class CopyConfig(ContinuingConfig):
    stage: str = "stage9_1"
    accept_from: list[str] = field(default_factory=lambda: ["stage9"])
    note: str = ""


class Copy(Stage):
    number = "9.1"
    title = "copies the model"
    option = "stage9_1_copy"
    config = CopyConfig

    def run(self, context: StageContext) -> Outcome:
        assert isinstance(context.config.training, CopyConfig)
        shutil.copytree(context.checkpoint, context.run.final)
        return Outcome({"note": context.config.training.note})


@dataclass
class AgreementConfig(ObjectiveConfig):
    mask_id: int = 0
    """Stands in place of every second token in the masked view."""
    layer: int = 0
    """Whose queries must not move."""


class Agreement(Objective):
    """Cross-entropy against the teacher's predictions of the plain batch, and queries that do not move
    when tokens are masked."""

    config = AgreementConfig

    def __init__(self, config: AgreementConfig) -> None:
        self.mask_id, self.layer = config.mask_id, config.layer
        queries = Layers.of(config.layer)
        self.wishes = {
            PLAIN: Wish(student=Capture(qkv=queries, logits=True), teacher=Capture(logits=True)),
            "masked": Wish(student=Capture(qkv=queries)),
        }

    def views(self, batch: View) -> Mapping[str, View]:
        masked = batch["input_ids"].clone()
        masked[:, ::2] = self.mask_id
        return {PLAIN: batch, "masked": batch | {"input_ids": masked}}

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        plain, masked = passes[PLAIN], passes["masked"]
        assert plain.student.logits is not None
        assert plain.taught.logits is not None
        wanted = plain.taught.logits.softmax(-1)
        entropy = -(wanted * plain.student.logits.log_softmax(-1)).sum(-1).mean()
        moved = (plain.student.qkv[self.layer].query - masked.student.qkv[self.layer].query).square().mean()
        return ObjectiveResult(entropy + moved, {"entropy_nats": entropy.detach()})


@dataclass
class EchoConfig(TeacherConfig):
    kind: str = "echo"
    vocab_size: int = 0
    """Of the student."""


class Echo(Teacher):
    """Is sure that the token it reads comes once more."""

    config = EchoConfig
    provides = Capture(logits=True)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    @classmethod
    def load(cls, config: EchoConfig, run: TrainConfig) -> Echo:
        return cls(config.vocab_size)

    def forward(self, view: View, capture: Capture) -> ForwardResult:
        from torch.nn.functional import one_hot

        return ForwardResult(0, logits=20.0 * one_hot(view["input_ids"], self.vocab_size))
