"""What objectives cannot do with a model, a teacher or beside each other; told before the first step, and by
`wf plan` of shapes alone. Imports no PyTorch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from wrinklefree.capture import Capture, Shape, united
from wrinklefree.errors import RunError
from wrinklefree.objectives.base import Objective


def teacher_wishes(objectives: Mapping[str, Objective], active: Collection[str]) -> dict[str, Capture]:
    """What each of the active objectives that need a teacher wants of it."""
    return {
        name: united(wish.teacher for wish in objective.wishes.values())
        for name, objective in objectives.items()
        if name in active and objective.needs_teacher
    }


def check_objectives(
    objectives: Mapping[str, Objective],
    active: Collection[str],
    student: Shape,
    teacher: Shape | None,
    is_sharded: bool = False,
) -> None:
    """Refuse what no step could do.

    Args: active are the names of those that ever have a weight; teacher is None where there is none, or none
        that says its shape; is_sharded: by FSDP.
    Raises: RunError naming the objective and what cannot be met.
    """
    for name in sorted(active):
        objective = objectives[name]
        try:
            objective.check_beside([other for other in sorted(active) if other != name])
            _check(objective, student, teacher)
            if is_sharded:
                objective.check_sharded()
        except ValueError as error:
            raise RunError(f"objective '{name}': {error}") from error


def _check(objective: Objective, student: Shape, teacher: Shape | None) -> None:
    for wish in objective.wishes.values():
        wish.student.check(student.num_layers)
        if teacher is not None:
            wish.teacher.check(teacher.num_layers)
    if teacher is not None and objective.needs_teacher:
        objective.check(student, teacher)
