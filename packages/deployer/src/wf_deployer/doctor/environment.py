"""The Python environment of a checkout: what is installed there, read from metadata without running it."""

from __future__ import annotations

import importlib.metadata as metadata
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Environment:
    """Attributes:
    python: Its interpreter.
    python_version: Such as "3.11.7".
    search: Its folders of packages; None: those of this process.
    is_own: Whether it is this process's own, whose code may run.
    """

    python: Path
    python_version: str
    search: tuple[str, ...] | None
    is_own: bool

    @cached_property
    def distributions(self) -> dict[str, metadata.Distribution]:
        """By normalized name; the first on the path, which is the one that is imported."""
        found: dict[str, metadata.Distribution] = {}
        everything: Iterable[metadata.Distribution] = (
            metadata.distributions()
            if self.search is None
            else metadata.distributions(path=list(self.search))
        )
        for distribution in everything:
            name = _name(distribution)
            if name is not None:
                found.setdefault(name, distribution)
        return found

    def version(self, name: str) -> Version | None:
        """Of an installed distribution; None where there is none, or none with a version."""
        distribution = self.distributions.get(canonicalize_name(name))
        try:
            return None if distribution is None else Version(distribution.version)
        except (InvalidVersion, KeyError, TypeError):
            return None

    def requirements(self, name: str, of: str) -> list[Requirement]:
        """What the installed `name` says of the version of `of`, in this environment and without extras."""
        distribution = self.distributions.get(canonicalize_name(name))
        found = []
        for text in (distribution.requires if distribution is not None else None) or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            wanted = canonicalize_name(requirement.name) == canonicalize_name(of)
            if wanted and (requirement.marker is None or requirement.marker.evaluate(self.markers())):
                found.append(requirement)
        return found

    def markers(self, extra: str = "") -> dict[str, str]:
        """The environment of PEP 508's markers."""
        short = ".".join(self.python_version.split(".")[:2])
        values = {key: str(value) for key, value in default_environment().items()}
        return values | {"python_version": short, "python_full_version": self.python_version, "extra": extra}


def _name(distribution: metadata.Distribution) -> str | None:
    """None for the remains of an installation that was interrupted."""
    try:
        name = distribution.metadata["Name"]
    except (OSError, UnicodeDecodeError):
        return None
    return canonicalize_name(name) if name else None


def own_environment() -> Environment:
    """That of this process."""
    return Environment(Path(sys.executable), platform.python_version(), None, True)


def environment_in(root: Path) -> Environment | None:
    """The one in `.venv` of another checkout; its programs are not run."""
    settings = root / ".venv" / "pyvenv.cfg"
    packages = sorted(map(str, root.glob(".venv/lib/python3*/site-packages")))
    if not settings.is_file() or not packages:
        return None
    lines = settings.read_text(errors="replace").splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    version = values.get("version_info") or values.get("version") or "unknown"
    return Environment(root / ".venv" / "bin" / "python", version, tuple(packages), False)
