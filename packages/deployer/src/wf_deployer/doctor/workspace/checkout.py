"""A checkout of this repository: its members, its lock, its environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from wf_deployer.doctor.base import UnreadableError
from wf_deployer.doctor.children import ask
from wf_deployer.doctor.environment import Environment
from wf_deployer.doctor.files import FileError, read_toml

ROOT_PROJECT = "wrinklefree-workspace"


@dataclass(frozen=True)
class Declared:
    """A requirement of a member. Attributes: extra or group is where it stands, None: dependencies."""

    requirement: Requirement
    extra: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Member:
    """Attributes: folder, and the contents of its pyproject.toml."""

    folder: Path
    settings: dict[str, Any]

    @property
    def project(self) -> dict[str, Any]:
        return self.settings.get("project", {})

    @property
    def name(self) -> str:
        return canonicalize_name(self.project.get("name", self.folder.name))

    @property
    def version(self) -> str:
        return str(self.project.get("version", ""))

    @cached_property
    def declared(self) -> list[Declared]:
        """All that it names. Raises: FileError for a line that is no requirement."""
        return [
            *self._read(self.project.get("dependencies", ())),
            *(
                declared
                for extra, lines in self.project.get("optional-dependencies", {}).items()
                for declared in self._read(lines, extra=extra)
            ),
            *(
                declared
                for group, lines in self.settings.get("dependency-groups", {}).items()
                for declared in self._read(lines, group=group)
            ),
        ]

    def _read(self, lines: Any, extra: str | None = None, group: str | None = None) -> Iterator[Declared]:
        for line in lines:
            if not isinstance(line, str):
                continue  # {include-group = ...}
            try:
                yield Declared(Requirement(line), extra, group)
            except InvalidRequirement as error:
                path = self.folder / "pyproject.toml"
                reason = str(error).splitlines()[0]
                raise FileError(f"{path}: {line!r} is no requirement: {reason}") from error


class Workspace:
    """The subject of the workspace's checks."""

    kind = "workspace"

    def __init__(self, root: Path, environment: Environment | None, is_own: bool) -> None:
        """Args:
        environment: None if the checkout has none.
        is_own: whether this `wf` belongs to it: code of another checkout is not run.

        Raises:
            FileError: its pyproject.toml cannot be read.
        """
        self.root = root
        self.settings = read_toml(root / "pyproject.toml")
        self.is_own = is_own
        self._environment = environment
        self._facts: Any = None
        self._lock_of_facts = Lock()

    @property
    def environment(self) -> Environment:
        """Raises: UnreadableError if there is none."""
        if self._environment is None:
            raise UnreadableError(f"{self.root / '.venv'} is no environment: run `uv sync` in {self.root}")
        return self._environment

    @property
    def has_environment(self) -> bool:
        return self._environment is not None

    @property
    def uv(self) -> dict[str, Any]:
        """The table `tool.uv`."""
        return self.settings.get("tool", {}).get("uv", {})

    @cached_property
    def members(self) -> list[Member]:
        """Those whose files can be read, the root itself last."""
        readable = [member for member in map(self._member, self.member_folders) if member is not None]
        return [*readable, Member(self.root, self.settings)]

    @property
    def member_folders(self) -> list[Path]:
        patterns = self.uv.get("workspace", {}).get("members", ())
        return [folder for pattern in patterns for folder in sorted(self.root.glob(pattern))]

    @property
    def missing_members(self) -> list[str]:
        """Members that the root names and that are not there."""
        return [p for p in self.uv.get("workspace", {}).get("members", ()) if not any(self.root.glob(p))]

    @staticmethod
    def _member(folder: Path) -> Member | None:
        try:
            member = Member(folder, read_toml(folder / "pyproject.toml"))
            assert member.declared is not None
            return member
        except FileError:
            return None

    @cached_property
    def lock(self) -> dict[str, list[dict[str, Any]]]:
        """Entries of uv.lock by name. Raises: UnreadableError."""
        try:
            contents = read_toml(self.root / "uv.lock")
            entries: dict[str, list[dict[str, Any]]] = {}
            for entry in contents["package"]:
                entries.setdefault(entry["name"], []).append(entry)
        except (FileError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableError(f"uv.lock cannot be read: {error}") from error
        return entries

    @property
    def facts(self) -> dict[str, Any]:
        """What children/facts.py says, asked once. Raises: CommandError, UnreadableError."""
        self.require_own("asks PyTorch and the kernels")
        with self._lock_of_facts:
            if self._facts is None:
                self._facts = ask(self.environment.python, "facts", cwd=self.root)
        return dict(self._facts)

    def require_own(self, what: str) -> None:
        """Raises: UnreadableError if code of this checkout may not run."""
        if not self.is_own:
            raise UnreadableError(f"runs no code of another checkout: `uv run wf doctor` in it {what}")
