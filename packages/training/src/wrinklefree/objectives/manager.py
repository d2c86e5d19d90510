"""Runs the active objectives on one batch, with as few forward passes as their wishes allow.

The wishes of all active objectives are united: one student forward for each distinct view, one teacher
forward for each view that somebody wants the teacher for, each with the captures asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wf_formats.errors import RequestError
from wrinklefree.capture import Capture, ForwardResult, Shape, View, united
from wrinklefree.config.curriculum import PhaseConfig
from wrinklefree.course import Course
from wrinklefree.objectives.base import (
    PLAIN,
    Objective,
    ObjectiveConfig,
    ObjectiveResult,
    Pass,
    TokenLosses,
    Wish,
)
from wrinklefree.objectives.checking import check_objectives, teacher_wishes
from wrinklefree.objectives.registry import build_objective
from wrinklefree.objectives.weights import WeightSchedule, weight_schedule

Forward = Callable[[View, Capture], ForwardResult]


class ObjectiveManager:
    """Weighted sum of objectives; metrics come out as `objective/metric_unit`."""

    def __init__(self, objectives: Mapping[str, Objective], weights: WeightSchedule) -> None:
        unknown = weights.ever_active() - objectives.keys()
        if unknown:
            raise ValueError(f"weights for objectives that do not exist: {sorted(unknown)}")
        _refuse_namesakes(objectives)
        self.objectives = dict(objectives)
        self.weights = weights

    @classmethod
    def from_config(
        cls,
        configs: Mapping[str, ObjectiveConfig],
        curriculum: Sequence[PhaseConfig] = (),
        max_steps: int = 1,
    ) -> ObjectiveManager:
        objectives = {name: build_objective(name, config) for name, config in configs.items()}
        return cls(objectives, weight_schedule(configs, curriculum, Course(max_steps)))

    def teacher_wishes(self) -> dict[str, Capture]:
        """What each objective that is ever active wants of the teacher; empty: none has to be loaded."""
        return teacher_wishes(self.objectives, self.weights.ever_active())

    def check(self, student: Shape, teacher: Shape | None, is_sharded: bool = False) -> None:
        """As `check_objectives`, of those that are ever active."""
        check_objectives(self.objectives, self.weights.ever_active(), student, teacher, is_sharded)

    def attach(self, student: Any, seed: int) -> None:
        """Hand the model that is trained to those that ever have a weight and ask for more than passes."""
        for name in sorted(self.weights.ever_active()):
            self.objectives[name].attach(student, seed)

    def active(self, step: int) -> dict[str, float]:
        """Objectives with a weight above 0 at this step, in the order of the configuration."""
        weights = self.weights(step)
        return {name: weights[name] for name in self.objectives if weights.get(name, 0.0) > 0}

    def _in_turn(self, step: int) -> dict[str, float]:
        """The active ones whose step it is: one that takes it alone, else those that share or, last, all."""
        active = self.active(step)
        takes = {name: self.objectives[name].takes_step(step) for name in active}
        alone = [name for name in active if takes[name]]
        chosen = alone[:1] or [name for name in active if takes[name] is None] or list(active)
        return {name: active[name] for name in chosen}

    def compute(self, batch: View, step: int, student: Forward, teacher: Forward | None) -> ObjectiveResult:
        """Total loss and all metrics of one (raw) batch at an optimizer step, with the losses of its tokens
        by the first objective that has any.

        Raises: ValueError when an active objective needs a teacher and there is none.
        """
        active = self._in_turn(step)
        for name in active:
            self.objectives[name].at_step(step)
        passes = self._passes(batch, list(active), student, teacher)
        total: Tensor = torch.zeros((), dtype=torch.float32, device=batch["input_ids"].device)
        metrics: dict[str, Tensor] = {}
        token_losses: TokenLosses | None = None
        for name, weight in active.items():
            objective = self.objectives[name]
            result = objective.compute({view: passes[view] for view in objective.wishes})
            total = total + weight * result.loss
            metrics |= {f"{name}/{key}": value for key, value in result.metrics.items()}
            token_losses = token_losses or result.token_losses
        return ObjectiveResult(total, metrics, token_losses)

    def state_dict(self) -> dict[str, Any]:
        """By objective, of those that have a state."""
        states = {name: objective.state_dict() for name, objective in self.objectives.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        for name, state in states.items():
            self.objectives[name].load_state_dict(state)

    def _passes(
        self, batch: View, active: list[str], student: Forward, teacher: Forward | None
    ) -> dict[str, Pass]:
        passes = {}
        for name, view in self._views(batch, active).items():
            wishes = {o: w[name] for o in active if name in (w := self.objectives[o].wishes)}
            taught = _teach(view, wishes, teacher)
            seen = united(w.student for w in wishes.values())
            shown = student(view, seen) if seen else ForwardResult(0)
            passes[name] = Pass(view, shown, taught, None if taught is None else teacher)
        return passes

    def _views(self, batch: View, active: list[str]) -> dict[str, View]:
        """Every view that an active objective names, made by the first one that does."""
        views: dict[str, View] = {}
        for objective in map(self.objectives.__getitem__, active):
            if missing := objective.wishes.keys() - views.keys():
                made = {PLAIN: batch, **objective.views(batch)}
                views |= {name: made[name] for name in objective.wishes if name in missing}
        return views


def _teach(view: View, wishes: Mapping[str, Wish], teacher: Forward | None) -> ForwardResult | None:
    """Args: wishes of this view by objective."""
    wanting = [name for name, wish in wishes.items() if wish.teacher]
    if not wanting:
        return None
    if teacher is None:
        raise ValueError(f"objective '{wanting[0]}' needs a teacher, and none was loaded")
    with torch.no_grad():
        return teacher(view, united(wish.teacher for wish in wishes.values()))


def _refuse_namesakes(objectives: Mapping[str, Objective]) -> None:
    """Raises: ValueError for a view that two objectives name and make in different ways."""
    makers: dict[str, str] = {}
    for name, objective in objectives.items():
        for view in objective.wishes.keys() - {PLAIN}:
            other = makers.setdefault(view, name)
            if type(objectives[other]).views is not type(objective).views:
                raise ValueError(
                    f"the objectives '{other}' and '{name}' both make a view '{view}', in different ways: "
                    "give one of the views another name"
                )
            one, two = objectives[other].view_options(), objective.view_options()
            if differing := [option for option in one if one[option] != two[option]]:
                option = differing[0]
                raise RequestError(
                    f"training.objectives.{other}.{option}={one[option]} and "
                    f"training.objectives.{name}.{option}={two[option]}: both see one view of the batch "
                    f"('{view}'); give both the same"
                )
