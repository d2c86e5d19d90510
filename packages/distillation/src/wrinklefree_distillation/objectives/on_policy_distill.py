"""The student's predictions towards the teacher's on text that the student wrote itself (GKD; Agarwal et al.
2023, arXiv 2306.13649, algorithm 1).

A student that learns on text of others never sees its own mistakes. Here a share of the steps (GKD's lambda)
is on its own text: prompts of the run's data, which the student goes on with at a temperature; the loss
counts its own tokens alone, and no gradient goes through the drawing. Reverse KL by default, which punishes
what the teacher would not say. Writing costs as much as some steps, so what was written serves `every_steps`
steps.

The prompts are the beginnings of documents of the steps that are taken: of records up to the answer, of text
`prompt_tokens`. Each rank writes its own. What was written is part of the checkpoint, so that a resumed run
goes on to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from wrinklefree.capture import LAST_HIDDEN_STATE, Capture, Shape, View
from wrinklefree.config.ranges import number
from wrinklefree.objectives.base import ObjectiveResult, Pass, Wish
from wrinklefree_distillation.objectives.logits_distill import LogitsDistill, LogitsDistillConfig
from wrinklefree_distillation.options import Divergence
from wrinklefree_distillation.tokens import Tokens

if TYPE_CHECKING:
    from wrinklefree_distillation.own_text import OwnText

STUDENT_WRITTEN = "student_written"
"""The view that shows text of the student."""


@dataclass
class OnPolicyDistillConfig(LogitsDistillConfig):
    """Divergence of the next-token distributions on text that the student wrote."""

    divergence: Divergence = Divergence.reverse
    share: float = number(0.5, above=0, most=1)
    """Of the steps that are on the student's text alone; the other objectives have the rest."""
    every_steps: int = number(20, least=1)
    """After so many steps the student writes anew."""
    num_sequences: int = number(32, least=1)
    """Texts that are written together; until there are as many prompts, at every such step."""
    prompt_tokens: int = number(32, least=1)
    """Of the beginning of a document of plain text; a record's prompt is whole."""
    new_tokens: int = number(64, least=1)
    """Most tokens of the student."""
    sampling_temperature: float = number(1.0, above=0)


class OnPolicyDistill(LogitsDistill):
    config = OnPolicyDistillConfig
    wishes = {STUDENT_WRITTEN: Wish(student=LAST_HIDDEN_STATE, teacher=Capture(predictions=True))}  # noqa: RUF012

    def __init__(self, config: OnPolicyDistillConfig) -> None:
        super().__init__(config)
        self.settings = config
        self.step = 0
        self.seed = 0
        self.own_text: OwnText | None = None

    def check(self, student: Shape, teacher: Shape) -> None:
        if not teacher.knows_any_text:
            raise ValueError(
                "this teacher's predictions were written before, for other text than the student is going to "
                "write: choose model.teacher.kind=local or openai"
            )
        if self.options.tokens is not Tokens.labelled:
            raise ValueError(
                f"tokens={self.options.tokens}: the loss counts the student's own tokens alone; leave it out"
            )
        super().check(student, teacher)

    def check_sharded(self) -> None:
        raise ValueError(
            "the student writes text between steps, which distributed=fsdp cannot do: choose distributed=ddp"
        )

    def check_beside(self, others: Sequence[str]) -> None:
        share = self.settings.share
        if share == 1 and others:
            raise ValueError(
                f"share=1 takes every step, and leaves none to {', '.join(others)}: give a smaller share, or "
                "the others weight=0"
            )
        if share < 1 and not others:
            raise ValueError(
                f"share={share:g} leaves steps to other objectives, and there is none: give share=1, or "
                "another objective a weight"
            )

    def attach(self, student: Any, seed: int) -> None:
        from wrinklefree_distillation.own_text import OwnText, Writing

        s = self.settings
        how = Writing(s.every_steps, s.num_sequences, s.prompt_tokens, s.new_tokens, s.sampling_temperature)
        self.seed, self.own_text = seed, OwnText(student, how, seed)

    def takes_step(self, step: int) -> bool:
        return Random(f"{self.seed} {step}").random() < self.settings.share

    def at_step(self, step: int) -> None:
        self.step = step

    def views(self, batch: View) -> Mapping[str, View]:
        assert self.own_text is not None
        return {STUDENT_WRITTEN: self.own_text.batch(batch, self.step)}

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        from data_handler.packing import IGNORED_LABEL

        result = super().compute(passes)
        labels = passes[STUDENT_WRITTEN].view["labels"]
        own_tokens = (labels != IGNORED_LABEL).sum() / len(labels)
        # Its tokens are the student's own: none is of a source.
        return ObjectiveResult(result.loss, result.metrics | {"answer_tokens": own_tokens})

    def state_dict(self) -> dict[str, Any]:
        return {} if self.own_text is None else self.own_text.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert self.own_text is not None
        self.own_text.load_state_dict(state)
