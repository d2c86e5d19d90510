"""Declared, locked and installed versions of every member, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.markers import InvalidMarker, Marker
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from wf_deployer.doctor.base import Finding, Status, listed
from wf_deployer.doctor.children import output_of
from wf_deployer.doctor.tools import find_tool
from wf_deployer.doctor.workspace.checkout import Declared, Member, Workspace
from wf_deployer.doctor.workspace.extras import active_choices

SYNC = "`uv sync`"


@dataclass(frozen=True)
class Versions:
    """A requirement and what there is of it. Attributes: None is "not there"."""

    member: str
    declared: Declared
    locked: Version | None
    installed: Version | None
    has_environment: bool = True

    @property
    def name(self) -> str:
        return canonicalize_name(self.declared.requirement.name)

    @property
    def is_optional(self) -> bool:
        return self.declared.extra is not None

    @property
    def problem(self) -> tuple[Status, str] | None:
        """How they disagree, in words."""
        specifier = self.declared.requirement.specifier
        if self.locked is None:
            return Status.fail, f"{self.name} is declared and not in uv.lock"
        if not specifier.contains(self.locked, prereleases=True):
            return Status.fail, f"{self.name}: declared {specifier}, locked {self.locked}"
        if not self.has_environment:
            return None
        if self.installed is None:
            return None if self.is_optional else (Status.fail, f"{self.name} {self.locked} is not installed")
        if not specifier.contains(self.installed, prereleases=True):
            return Status.fail, f"{self.name}: declared {specifier}, installed {self.installed}"
        if _public(self.installed) != _public(self.locked):
            return Status.warn, f"{self.name}: locked {self.locked}, installed {self.installed}"
        return None

    def as_json(self) -> dict[str, Any]:
        requirement = self.declared.requirement
        return {
            "member": self.member,
            "name": self.name,
            "declared": str(requirement.specifier) or None,
            "locked": None if self.locked is None else str(self.locked),
            "installed": None if self.installed is None else str(self.installed),
        }


def versions(workspace: Workspace) -> list[Versions]:
    """Of all that members declare and that holds here. Raises: UnreadableError."""
    active = active_choices(workspace)
    rows = []
    for member in workspace.members:
        for declared in member.declared:
            marker = declared.requirement.marker
            if marker is None or marker.evaluate(workspace.markers()):
                locked = _locked(workspace, member, declared, active)
                installed = workspace.version(declared.requirement.name)
                rows.append(Versions(member.name, declared, locked, installed, workspace.has_environment))
    return rows


def members(workspace: Workspace) -> Iterator[Finding]:
    """A line for each member: its own version thrice, and those of what it names."""
    rows = versions(workspace)
    for member in workspace.members:
        own = [row for row in rows if row.member == member.name]
        problems = [row.problem for row in own if row.problem is not None]
        if (problem := _own_problem(workspace, member)) is not None:
            problems.insert(0, problem)
        named = listed((text for _status, text in problems), 4)
        if problems:
            worst = Status.fail if any(status is Status.fail for status, _text in problems) else Status.warn
            is_of_lock = any(
                "uv.lock" in text or ("locked" in text and "declared" in text) for _s, text in problems
            )
            fix = "`uv lock && uv sync`" if is_of_lock else SYNC
            yield Finding(
                worst, named, "declared = locked = installed", fix, _source(member, workspace), member.name
            )
        else:
            found = f"{_thrice(workspace, member)}; its {len(own)} requirements agree"
            yield Finding(Status.ok, found, source=_source(member, workspace), part=member.name)


def _thrice(workspace: Workspace, member: Member) -> str:
    installed = workspace.version(member.name)
    told = f"declared {member.version}, locked {_own_locked(workspace, member)}"
    return told if installed is None else f"{told}, installed {installed}"


def broken(workspace: Workspace) -> Iterator[Finding]:
    """What installed packages require of each other, by uv, which starts the interpreter."""
    workspace.require_own("asks uv")
    uv = find_tool("uv")
    if uv is None:
        yield Finding(Status.skip, "uv is not on the PATH", "uv", "install uv to have requirements checked")
        return
    python = str(workspace.environment.python)
    done = output_of([uv, "pip", "check", "--offline", "--python", python], cwd=workspace.root)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0:
        yield Finding(Status.ok, lines[-1] if lines else "all compatible", source="uv pip check")
    else:
        problems = [line for line in lines if line.startswith("The package")] or lines
        yield Finding(Status.fail, listed(problems, 5), "all compatible", SYNC, "uv pip check")


def checkout(workspace: Workspace) -> Iterator[Finding]:
    """Whether what is imported here are this checkout's members."""
    elsewhere = {}
    for member in workspace.members:
        folder = _editable_folder(workspace, member)
        if folder is not None and folder.resolve() != member.folder.resolve():
            elsewhere[member.name] = folder
    if elsewhere:
        folder = next(iter(elsewhere.values()))
        found = f"{listed(elsewhere)}: installed from {folder.parent}"
        yield Finding(Status.warn, found, str(workspace.root / "packages"), SYNC, "direct_url.json")
    else:
        yield Finding(Status.ok, "members are those of this checkout", source="direct_url.json")


def _editable_folder(workspace: Workspace, member: Member) -> Path | None:
    distribution = workspace.environment.distributions.get(member.name)
    text = distribution.read_text("direct_url.json") if distribution is not None else None
    url = urlsplit(json.loads(text)["url"]) if text else None
    return Path(unquote(url.path)) if url is not None and url.scheme == "file" else None


def _own_problem(workspace: Workspace, member: Member) -> tuple[Status, str] | None:
    locked, installed = _own_locked(workspace, member), workspace.version(member.name)
    is_installed = workspace.has_environment and member.folder != workspace.root  # which is no package
    if locked is None:
        return Status.fail, f"{member.name} is not in uv.lock"
    if locked != member.version:
        return Status.fail, f"{member.name}: declared {member.version}, locked {locked}"
    if is_installed and installed is None:
        return Status.fail, f"{member.name} {member.version} is not installed"
    if is_installed and str(installed) != member.version:
        return Status.fail, f"{member.name}: declared {member.version}, installed {installed}"
    return None


def _own_locked(workspace: Workspace, member: Member) -> str | None:
    entries = workspace.lock.get(member.name)
    return str(entries[0].get("version")) if entries else None


def _locked(workspace: Workspace, member: Member, declared: Declared, active: str) -> Version | None:
    """The version that the lock has for this requirement in an environment with the extra `active`."""
    name = canonicalize_name(declared.requirement.name)
    entries = workspace.lock.get(member.name) or [{}]
    edges = _edges(entries[0], declared)
    for edge in edges:
        if edge.get("name") == name and _holds(edge.get("marker"), workspace, active):
            versions_of_name = [entry.get("version") for entry in workspace.lock.get(name, ())]
            version = edge.get("version") or (versions_of_name[0] if versions_of_name else None)
            try:
                return Version(str(version))
            except InvalidVersion:
                return None
    return None


def _edges(entry: dict[str, Any], declared: Declared) -> list[dict[str, Any]]:
    if declared.extra is not None:
        found = entry.get("optional-dependencies", {}).get(declared.extra, [])
    elif declared.group is not None:
        found = entry.get("dev-dependencies", {}).get(declared.group, [])
    else:
        found = entry.get("dependencies", [])
    return list(found)


def _holds(marker: str | None, workspace: Workspace, active: str) -> bool:
    if marker is None:
        return True
    try:
        return bool(Marker(marker).evaluate(workspace.markers(active)))
    except InvalidMarker:
        return False


def _public(version: Version) -> Version:
    """Without the local part: torch 2.15.0+cu132 is a build of 2.15.0."""
    return Version(version.public)


def _source(member: Member, workspace: Workspace) -> str:
    return f"{(member.folder / 'pyproject.toml').relative_to(workspace.root)}, uv.lock, package metadata"
