"""The arms of the ablation: where each starts from, and which terms its loss has.

All train by one code path: stage 3 with the objective `bitdistill`, terms switched on and off. An arm without
distillation has the task's cross-entropy alone, and then no teacher is loaded. A further arm is an entry of
ARMS, and of STARTS where none of these fits.
"""

from __future__ import annotations

from dataclasses import dataclass

FULL = "full"
"""The arm that the others are compared with, and whose result teaches them."""
_OBJECTIVE = "training.objectives.bitdistill"


@dataclass(frozen=True)
class Start:
    """The result of a stage, made once and shared by arms.

    after: the start that it goes on from; None: the dense model.
    """

    stage: str
    scheme: str = "group64"
    sub_norm: bool = False
    after: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def model(self) -> list[str]:
        """Overrides that describe its weights."""
        return [f"model.scheme={self.scheme}", f"model.sub_norm={str(self.sub_norm).lower()}"]


STARTS = {
    "dense": Start("1", scheme="none"),
    "rounded": Start("1"),
    "sub_norm": Start("1", sub_norm=True),
    "calibrated": Start(
        "1.5",
        after="rounded",
        settings=(
            "training.ternarize.tokens=16384",
            "training.ternarize.moment_tokens=16384",
            "training.ternarize.refine_steps=128",
            "training.ternarize.distil_steps=2000",
        ),
    ),
    "corrected": Start("2.5", after="calibrated", settings=("training.low_rank.rank=16",)),
}
"""The steps of `calibrated` are the most that its minutes are planned into, as in the quickstart."""


@dataclass(frozen=True)
class Arm:
    """
    Attributes:
        rates: learning rates that are swept unless --rates says others.
        before: the arm that it differs from in one thing.
        logits, relations: terms beside the cross-entropy, their gradients balanced to its norm.
    """

    title: str
    start: str
    rates: tuple[float, ...]
    before: str | None = None
    logits: bool = False
    relations: bool = False
    settings: tuple[str, ...] = ()

    @property
    def has_teacher(self) -> bool:
        return self.logits or self.relations

    @property
    def overrides(self) -> list[str]:
        """Of stage 3, for this arm's weights and loss."""
        balance = {(False, False): "none", (True, False): "logits", (False, True): "attention"}
        left_out = {"logits": not self.logits, "attention": not self.relations}
        return [
            *STARTS[self.start].model,
            "training.objectives.logits_distill.weight=0",
            f"{_OBJECTIVE}.balance={balance.get((self.logits, self.relations), 'both')}",
            f"{_OBJECTIVE}.measure_every_steps={20 if self.has_teacher else 0}",
            *(f"{_OBJECTIVE}.{term}.weight=0" for term, is_out in left_out.items() if is_out),
            *self.settings,
        ]

    @property
    def stages(self) -> set[str]:
        """Numbers of the stages that it passes through."""
        found, name = {"3"}, self.start
        while name:
            found.add(STARTS[name].stage)
            name = STARTS[name].after or ""
        return found


_DENSE, _ROUNDED, _CALIBRATED = (1e-5, 3e-5, 1e-4), (1e-4, 3e-4, 1e-3), (3e-5, 1e-4, 3e-4)
ARMS = {
    FULL: Arm("full precision", "dense", _DENSE),
    "rounded": Arm("rounded", "rounded", _ROUNDED, before=FULL),
    "sub_norm": Arm("rounded, SubLN", "sub_norm", _ROUNDED, before="rounded"),
    "calibrated": Arm("calibrated", "calibrated", _CALIBRATED, before="rounded"),
    "logits": Arm("calibrated, logits", "calibrated", _CALIBRATED, before="calibrated", logits=True),
    "logits_every": Arm(
        "calibrated, logits of all tokens",
        "calibrated",
        _CALIBRATED,
        before="logits",
        logits=True,
        settings=(f"{_OBJECTIVE}.logits.tokens=every",),
    ),
    "relations": Arm("calibrated, relations", "calibrated", _CALIBRATED, before="calibrated", relations=True),
    "both": Arm(
        "calibrated, both", "calibrated", _CALIBRATED, before="relations", logits=True, relations=True
    ),
    "low_rank": Arm("low rank, both", "corrected", _CALIBRATED, before="both", logits=True, relations=True),
}
