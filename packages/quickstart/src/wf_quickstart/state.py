"""`quickstart.json`: what was asked for, what is done and planned, so that a second run goes on.

A step is done if its record has the same needs (the steps before it, by the time they were finished)
and its outputs are there. A step that ran again makes those that need it run again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from wf_formats import locks
from wf_formats.aside import move_aside
from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value
from wf_formats.overrides import shown
from wf_quickstart.errors import QuickstartError, QuickstartRequestError

FORMAT = 3
FILE_NAME = "quickstart.json"
LOCK_NAME = ".lock"
OWN = (
    "text",
    "model",
    "checkpoints",
    "eval",
    "export",
    "llamacpp",
    "plots",
    "logs",
    "report.md",
    "report.json",
)
"""What a quickstart makes in its folder. Somebody's files may have got into it, so nothing is removed:
starting over moves it aside.
"""


class State:
    """The records of one output folder.

    Raises:
        QuickstartRequestError: the folder belongs to other options, to another version, or to somebody else.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], force: bool = False) -> None:
        self.folder = folder
        self._path = folder / FILE_NAME
        if not self._path.is_file():
            refuse_foreign_folder(folder)
            self._begin(identity)
            return
        self._values = _read(self._path)
        if force:
            self._move_own()
            self._begin(identity)
        elif self._values.get("format") != FORMAT:
            raise QuickstartRequestError(
                f"{self._path} is of another version; use --force or another --output"
            )
        elif differences := _differences(self._values["options"], identity):
            raise QuickstartRequestError(
                f"{folder} holds a quickstart with other options:\n  "
                + "\n  ".join(differences)
                + "\nChoose another --output, or start over in it with --force."
            )

    def is_done(self, name: str, needs: Sequence[str], outputs: Sequence[Path]) -> bool:
        record = self._values["steps"].get(name)
        return (
            record is not None
            and record["needs"] == self._finished(needs)
            and all(path.exists() for path in outputs)
        )

    def is_stale(self, name: str, needs: Sequence[str]) -> bool:
        """Whether it was done, but before something that it needs was done again."""
        record = self._values["steps"].get(name)
        return record is not None and record["needs"] != self._finished(needs)

    def record(self, name: str, needs: Sequence[str], figures: dict[str, Any]) -> None:
        self._values["steps"][name] = {
            "finished_s": time.time(),
            "needs": self._finished(needs),
            "figures": figures,
        }
        self._write()

    def add_time(self, name: str, seconds: float) -> None:
        """Time counts also where the step was stopped or failed."""
        spent = self._values["spent_s"]
        spent[name] = spent.get(name, 0.0) + seconds
        self._write()

    def has_done(self, name: str) -> bool:
        """Whether it was done at some time, perhaps with needs of before."""
        return name in self._values["steps"]

    def once(self, name: str, needs: Sequence[str], decide: Callable[[], float]) -> float:
        """What was decided for a step; anew where something that it needs was done again."""
        plans, finished = self._values["plans"], self._finished(needs)
        if name not in plans or plans[name]["needs"] != finished:
            plans[name] = {"needs": finished, "value": decide()}
            self._write()
        return float(plans[name]["value"])

    def spent_s(self, name: str) -> float:
        return float(self._values["spent_s"].get(name, 0.0))

    def figures(self, name: str) -> dict[str, Any]:
        """What a step that is done found out."""
        figures: dict[str, Any] = self._values["steps"][name]["figures"]
        return figures

    def _finished(self, needs: Sequence[str]) -> dict[str, float]:
        return {name: self._values["steps"][name]["finished_s"] for name in needs}

    def _begin(self, identity: dict[str, Any]) -> None:
        self._values = {"format": FORMAT, "options": identity, "steps": {}, "spent_s": {}, "plans": {}}
        self._write()

    def _write(self) -> None:
        atomic_write_json(self._path, self._values)

    def _move_own(self) -> None:
        paths = [path for name in OWN if (path := self.folder / name).exists()]
        if not paths:
            return
        aside = move_aside(self.folder, paths)
        sys.stderr.write(f"starting over: what was there is now in {aside}\n")


def refuse_foreign_folder(folder: Path) -> None:
    """Raises: QuickstartRequestError for a file, or a folder with something else than a quickstart."""
    if not folder.exists() or (folder / FILE_NAME).is_file():
        return
    if not folder.is_dir():
        raise QuickstartRequestError(f"{folder} is no folder; choose another --output")
    others = [path.name for path in folder.iterdir() if path.name != LOCK_NAME]
    if others:
        raise QuickstartRequestError(
            f"{folder} is not empty ({', '.join(sorted(others)[:3])}) and holds no quickstart; "
            "choose another --output"
        )


def _read(path: Path) -> dict[str, Any]:
    """The records. Raises: QuickstartRequestError for a file that no quickstart wrote."""
    values = read_value(path, QuickstartRequestError)
    parts = ("options", "steps", "spent_s")
    if not isinstance(values, dict) or not all(isinstance(values.get(part), dict) for part in parts):
        raise QuickstartRequestError(f"{path} was not written by a quickstart; choose another --output")
    return values


def _differences(stored: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {shown(stored.get(key))} there, {shown(value)} now"
        for key in [*sorted(stored.keys() - identity.keys()), *identity]
        if stored.get(key) != (value := identity.get(key))
    ]


def locked(folder: Path) -> AbstractContextManager[None]:
    """One quickstart works in a folder at a time; the lock ends with the process.

    Raises:
        QuickstartError: another one does.
    """
    return locks.locked(folder / LOCK_NAME, QuickstartError(f"another quickstart is working in {folder}"))
