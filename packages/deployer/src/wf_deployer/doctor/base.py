"""What a check says, and what a check is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from wf_formats.errors import UserError


class Status(StrEnum):
    ok = "ok"
    warn = "warn"
    fail = "fail"
    skip = "skip"
    """Not looked at: it does not concern this machine, or what it needs is missing."""

    @property
    def is_problem(self) -> bool:
        return self in (Status.warn, Status.fail)


class UnreadableError(UserError):
    """A file that a check builds on cannot be read; the check of the files themselves reports it."""


@dataclass(frozen=True)
class Finding:
    """One line of a report; its id is that of its check, with `part` behind it where a check has several.

    Attributes:
        found: What there is.
        expected: What should be.
        fix: What to do, a command where one does it; empty if there is nothing to mend.
        source: Where `found` comes from: a file, a program, a variable.
    """

    status: Status
    found: str
    expected: str = ""
    fix: str = ""
    source: str = ""
    part: str = ""


@dataclass(frozen=True)
class Check:
    """A function of a subject (`Workspace` or `Repository`) that says what it finds, at least one thing.

    Attributes:
        id: `area.name`; reports are grouped by the area.
        subject: The type that it looks at.
        find: It changes nothing and asks nothing of the network. Its exception is reported as its failure.
    """

    id: str
    subject: type
    find: Callable[[Any], Iterable[Finding]]


@dataclass(frozen=True)
class Row:
    """A finding with its whole id."""

    id: str
    finding: Finding

    @property
    def area(self) -> str:
        return self.id.partition(".")[0]


def listed(names: Iterable[str], most: int = 8) -> str:
    """`a, b, c and 4 more`."""
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
