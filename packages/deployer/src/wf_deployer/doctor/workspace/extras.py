"""Extras that exclude each other: each lives in an environment of its own."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.utils import canonicalize_name

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.workspace.checkout import Workspace


def conflicts(workspace: Workspace) -> Iterator[Finding]:
    """Of each conflict set at most one may be installed."""
    assert workspace.environment  # else there is nothing to say
    for number, choices in enumerate(workspace.uv.get("conflicts", ()), 1):
        part = str(number)
        names = [_label(choice) for choice in choices]
        present = [_label(choice) for choice in choices if _is_present(workspace, choice)]
        if len(present) > 1:
            fix = "`uv sync` for the base environment; an extra in one of its own (docs/dependencies.md)"
            found = f"{' and '.join(present)} together"
            yield Finding(Status.fail, found, f"one of {', '.join(names)}", fix, "tool.uv.conflicts", part)
        else:
            found = f"{present[0]} alone" if present else f"none of {', '.join(names)}"
            yield Finding(Status.ok, found, source="tool.uv.conflicts", part=part)
    if not workspace.uv.get("conflicts"):
        yield Finding(Status.ok, "no extras exclude each other", source="tool.uv.conflicts")


def active_choices(workspace: Workspace) -> str:
    """The extra or group of a conflict set that is installed, as uv.lock's markers spell it; "" for none.

    Without an environment it is the group, which `uv sync` installs.
    """
    for choices in workspace.uv.get("conflicts", ()):
        for choice in reversed(choices):
            is_default = not workspace.has_environment and "group" in choice
            if is_default or _is_present(workspace, choice):
                kind = "extra" if "extra" in choice else "group"
                package, name = canonicalize_name(choice["package"]), choice[kind]
                return f"{kind}-{len(package)}-{package}-{name}"
    return ""


def _label(choice: dict[str, str]) -> str:
    if "extra" in choice:
        return f"{choice['package']}[{choice['extra']}]"
    return f"group {choice.get('group')}"


def _is_present(workspace: Workspace, choice: dict[str, str]) -> bool:
    """All that it names is installed, in versions that it takes."""
    package = canonicalize_name(choice["package"])
    requirements = [
        declared.requirement
        for member in workspace.members
        if member.name == package
        for declared in member.declared
        if (declared.extra, declared.group) == (choice.get("extra"), choice.get("group"))
    ]
    versions = [(wanted, workspace.version(wanted.name)) for wanted in requirements]
    return bool(versions) and all(
        found is not None and wanted.specifier.contains(found, prereleases=True) for wanted, found in versions
    )
