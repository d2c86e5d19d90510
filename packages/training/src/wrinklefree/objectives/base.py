"""The interface of a training objective.

The file of an objective holds its options and its `Objective`, and imports no PyTorch at the top (the
options are read with the configuration). It is registered as an entry point "wrinklefree.objectives"
(plugins.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from wrinklefree.capture import Capture, ForwardResult, Shape, View
from wrinklefree.config.ranges import number

if TYPE_CHECKING:
    from torch import Tensor

PLAIN = "plain"
"""The view that shows the batch as it is."""


@dataclass
class ObjectiveConfig:
    """Fields of every objective."""

    weight: float = number(1.0, least=0)
    """Factor in the total loss; 0 switches the objective off (and its teacher, if no one else asks)."""


@dataclass(frozen=True)
class Wish:
    """What is to be captured when a view is shown; the teacher sees it only if something is wanted."""

    student: Capture
    teacher: Capture = field(default_factory=Capture)


@dataclass(frozen=True)
class Pass:
    """A view and what the models made of it; teacher is there if and only if it was wished for.

    Others may have wished for more, so a result may hold more than asked. A student that nobody wishes for
    does not see the view: its result is empty.
    """

    view: View
    student: ForwardResult
    teacher: ForwardResult | None = None
    ask: Callable[[View, Capture], ForwardResult] | None = None
    """The teacher itself, where it was wished for: what can be asked once its result is known."""

    @property
    def taught(self) -> ForwardResult:
        """The teacher's result of an objective that wished for it."""
        assert self.teacher is not None
        return self.teacher


class TokenLosses(NamedTuple):
    """The loss of each token of the batch as it is, without gradient.

    values: float32 [batch, tokens]; of a prediction, at the token that is predicted.
    counted: bool [batch, tokens], where there is one.
    """

    values: Tensor
    counted: Tensor


@dataclass
class ObjectiveResult:
    """loss: scalar with gradient; metrics: `name_unit` -> scalar without gradient.

    token_losses: what the loss is a mean of, unweighted; None where it is none over tokens of the data.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    token_losses: TokenLosses | None = None


def over_labels(view: View, result: ObjectiveResult) -> ObjectiveResult:
    """A mean over this pass's labels, as its part of the mean over all labels of a step.

    Passes and ranks are averaged alike, and supervised records give them different numbers of labels: where
    that is so the batch says `label_weight`, its share times their number.
    """
    if (weight := view.get("label_weight")) is None:
        return result
    metrics = {name: metric * weight for name, metric in result.metrics.items()}
    return ObjectiveResult(result.loss * weight, metrics, result.token_losses)


class Objective(ABC):
    """One term of the loss, built from its options."""

    config: ClassVar[type[ObjectiveConfig]]
    wishes: Mapping[str, Wish]
    """Name of a view -> what is captured; a class attribute, or set by `__init__` from the options."""

    def __init__(self, config: Any) -> None:  # noqa: B027 (an objective may have no options)
        """Args: config is an instance of `self.config`."""

    @property
    def needs_teacher(self) -> bool:
        return any(wish.teacher for wish in self.wishes.values())

    @property
    def row_tokens(self) -> int:
        """Of the longest view, for each token of the batch; for plans (planning/)."""
        return 1

    def views(self, batch: View) -> Mapping[str, View]:
        """The views of a batch that `wishes` names (masked, for example). Default: as it is.

        Objectives that name the same view share it: it is made by the first of them. PLAIN need not be made.
        """
        return {PLAIN: batch}

    def view_options(self) -> Mapping[str, Any]:
        """Options that `views` depends on: the same for all that share a view."""
        return {}

    def check(self, student: Shape, teacher: Shape) -> None:  # noqa: B027 (may compare nothing)
        """Raises: ValueError for models whose answers cannot be compared; asked before the first step."""

    def check_sharded(self) -> None:  # noqa: B027 (most can be had with FSDP)
        """Raises: ValueError for what cannot be done with a sharded model; asked before the first step."""

    def check_beside(self, others: Sequence[str]) -> None:  # noqa: B027 (as a rule any will do)
        """Args: names of the other objectives that ever have a weight.

        Raises: ValueError for a choice of others that leaves steps to nobody, or to nobody else; asked before
            the first step.
        """

    def attach(self, student: Any, seed: int) -> None:  # noqa: B027 (most see passes alone)
        """Called once, before the first step, with the model that is trained and the run's seed, of an
        objective that ever has a weight.

        Raises: UserError for a model that it cannot train.
        """

    def takes_step(self, step: int) -> bool | None:
        """Whether an optimizer step is this objective's alone (True), or the other ones' (False).

        None, the default: it shares all steps with the others.
        """
        return None

    def at_step(self, step: int) -> None:  # noqa: B027 (may not depend on it)
        """Called before each `views` and `compute` with the optimizer step (0 for the first)."""

    def state_dict(self) -> dict[str, Any]:
        """What `compute` changes and later depends on, the same on all ranks; JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (as a rule there is none)
        """Go on from the `state_dict` of a checkpoint."""

    @abstractmethod
    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        """Loss and metrics of one batch, from a pass for each view in `wishes`."""
