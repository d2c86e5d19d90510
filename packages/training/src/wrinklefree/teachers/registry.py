"""The teachers that are installed, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wrinklefree.capture import Capture
from wrinklefree.config.model import TeacherConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.errors import RunError
from wrinklefree.plugins import load_all, lookup
from wrinklefree.teachers.base import Teacher

GROUP = "wrinklefree.teachers"


def teacher_schemas() -> list[type[TeacherConfig]]:
    return [kind.config for kind in load_all(GROUP).values()]


def teacher_schema(kind: str) -> type[TeacherConfig]:
    """Raises: UnknownNameError."""
    teacher: type[Teacher] = lookup(GROUP, "teacher", kind)
    return teacher.config


def check_teacher(run: TrainConfig) -> None:
    """Raises: ConfigError for options of `model.teacher` that cannot go together."""
    kind: type[Teacher] = lookup(GROUP, "teacher", run.model.teacher.kind)
    kind.check(run.model.teacher, run)


def contents_of_teacher(run: TrainConfig) -> Mapping[str, str]:
    """As Teacher.contents. Raises: OSError."""
    kind: type[Teacher] = lookup(GROUP, "teacher", run.model.teacher.kind)
    return kind.contents(run.model.teacher)


def check_wishes(kind: str, wishes: Mapping[str, Capture]) -> None:
    """Raises: RunError naming an objective that wants what this kind of teacher cannot give."""
    teacher: type[Teacher] = lookup(GROUP, "teacher", kind)
    for name, capture in wishes.items():
        if lacking := capture.beyond(teacher.provides):
            raise RunError(
                f"objective '{name}' wants {' and '.join(lacking)} of its teacher, which "
                f"model.teacher.kind={kind} does not give: choose another teacher or objective"
            )


def load_teacher(run: TrainConfig, tokenizer: Any, wishes: Mapping[str, Capture]) -> Teacher | None:
    """The teacher of `model.teacher`; None when no objective wishes for one.

    Args: tokenizer is the student's; wishes are by objective.
    Raises: RunError as `check_wishes`, or naming a token that has another id for the teacher.
    """
    if not wishes:
        return None
    options = run.model.teacher
    check_wishes(options.kind, wishes)
    kind: type[Teacher] = lookup(GROUP, "teacher", options.kind)
    teacher = kind.load(options, run)
    teacher.check_tokenizer(tokenizer)
    return teacher
