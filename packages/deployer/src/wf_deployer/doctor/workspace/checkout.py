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
from packaging.version import Version

from wf_deployer.doctor.base import UnreadableError
from wf_deployer.doctor.children import ask
from wf_deployer.doctor.environment import Environment, own_environment
from wf_deployer.doctor.files import FileError, read_toml
from wf_deployer.errors import CommandError

ROOT_PROJECT = "wrinklefree-workspace"
_STRINGS = [str]
_SHAPE: dict[str, Any] = {
    "project": {
        "name": str,
        "version": str,
        "requires-python": str,
        "dependencies": _STRINGS,
        "optional-dependencies": {"*": _STRINGS},
    },
    "dependency-groups": {"*": list},
    "tool": {
        "uv": {"conflicts": [[dict]], "workspace": {"members": _STRINGS}},
        "wf-doctor": {"imports": {"*": {"*": _STRINGS}}},
    },
}
"""What is read of a pyproject.toml; `*` is any key."""
_EDGES = [{"name": str, "version": str, "marker": str}]
_LOCK_SHAPE: dict[str, Any] = {
    "package": [
        {
            "name": str,
            "version": str,
            "dependencies": _EDGES,
            "optional-dependencies": {"*": _EDGES},
            "dev-dependencies": {"*": _EDGES},
        }
    ]
}


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


def read_settings(path: Path) -> dict[str, Any]:
    """A pyproject.toml whose tables are what they should be.

    Raises:
        FileError: it cannot be read, or one of them is something else.
    """
    settings = read_toml(path)
    if (wrong := _misshapen(settings, _SHAPE)) is not None:
        raise FileError(f"{path}: {wrong}; mend it")
    return settings


def _misshapen(value: Any, shape: Any, where: str = "") -> str | None:
    """What of a TOML value is of another type than in `shape`, in words."""
    kind: type[Any] = shape if isinstance(shape, type) else type(shape)
    if not isinstance(value, kind):
        return f"{where} is a {type(value).__name__}, not a {kind.__name__}"
    inside: list[tuple[Any, Any, str]] = []
    if isinstance(shape, dict):
        inside = [(value[key], shape.get(key, shape.get("*")), key) for key in value]
    elif isinstance(shape, list):
        inside = [(element, shape[0], "[]") for element in value]
    found = (_misshapen(v, s, f"{where}.{key}".lstrip(".")) for v, s, key in inside if s is not None)
    return next(filter(None, found), None)


class Workspace:
    """The subject of the workspace's checks."""

    kind = "workspace"

    def __init__(self, root: Path, environment: Environment | None, is_own: bool) -> None:
        """Args:
        environment: None if the checkout has none.
        is_own: whether this `wf` belongs to it: code of another checkout is not run.

        Raises:
            FileError: its pyproject.toml cannot be read, or names members elsewhere.
        """
        self.root = root
        self.settings = read_settings(root / "pyproject.toml")
        for pattern in self._patterns:
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
                raise FileError(
                    f"{root / 'pyproject.toml'}: the member {pattern!r} lies elsewhere; name a folder here"
                )
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

    def version(self, name: str) -> Version | None:
        """Of an installed package; None without an environment, too."""
        return None if self._environment is None else self._environment.version(name)

    def markers(self, extra: str = "") -> dict[str, str]:
        """Those of its environment, or of this process where it has none."""
        return (self._environment or own_environment()).markers(extra)

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
        return [folder for pattern in self._patterns for folder in sorted(self.root.glob(pattern))]

    @property
    def missing_members(self) -> list[str]:
        """Members that the root names and that are not there."""
        return [pattern for pattern in self._patterns if not any(self.root.glob(pattern))]

    @property
    def _patterns(self) -> list[str]:
        return list(self.uv.get("workspace", {}).get("members", ()))

    @staticmethod
    def _member(folder: Path) -> Member | None:
        try:
            member = Member(folder, read_settings(folder / "pyproject.toml"))
            assert member.declared is not None
            return member
        except FileError:
            return None

    @cached_property
    def lock(self) -> dict[str, list[dict[str, Any]]]:
        """Entries of uv.lock by name. Raises: UnreadableError."""
        try:
            contents = read_toml(self.root / "uv.lock")
        except FileError as error:
            raise UnreadableError(str(error)) from error
        if (wrong := _misshapen(contents, _LOCK_SHAPE)) is not None:
            raise UnreadableError(f"{self.root / 'uv.lock'}: {wrong}")
        entries: dict[str, list[dict[str, Any]]] = {}
        for entry in contents.get("package", ()):
            entries.setdefault(entry.get("name", ""), []).append(entry)
        return entries

    @property
    def facts(self) -> dict[str, Any]:
        """What children/facts.py says, asked once. Raises: CommandError, UnreadableError."""
        self.require_own("asks PyTorch and the kernels")
        with self._lock_of_facts:
            if self._facts is None:
                try:
                    self._facts = ask(self.environment.python, "facts", cwd=self.root)
                except CommandError as error:
                    self._facts = error  # nobody asks again
        if isinstance(self._facts, CommandError):
            raise self._facts
        return dict(self._facts)

    def require_own(self, what: str) -> None:
        """Raises: UnreadableError if code of this checkout may not run."""
        if not self.is_own:
            raise UnreadableError(f"runs no code of another checkout: `uv run wf doctor` in it {what}")
