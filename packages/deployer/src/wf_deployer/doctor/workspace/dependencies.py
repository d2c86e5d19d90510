"""What members declare: pinned, imported, and nothing imported that is not declared."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from wf_deployer.doctor.base import Finding, Status, listed
from wf_deployer.doctor.children import ask
from wf_deployer.doctor.workspace.checkout import Member, Workspace

_RULES = {
    "DEP001": "imported, not installed or declared",
    "DEP002": "declared, not imported",
    "DEP003": "imported, not declared",
    "DEP004": "imported, declared for development alone",
    "DEP005": "declared, part of Python",
}
_FIXES = {
    "DEP001": "add it to",
    "DEP003": "add it to",
    "DEP002": "take it out of",
    "DEP005": "take it out of",
}


def unpinned(workspace: Workspace) -> Iterator[Finding]:
    """Requirements without any bound drift to whatever is newest when the lock is made anew."""
    names = {member.name for member in workspace.members}
    loose = sorted(
        f"{declared.requirement.name} ({member.name})"
        for member in workspace.members
        for declared in member.declared
        if not declared.requirement.specifier and canonicalize_name(declared.requirement.name) not in names
    )
    if loose:
        found = f"{len(loose)} without a bound: {listed(loose)}"
        yield Finding(
            Status.warn, found, "a lower bound each", "add `>=` and the locked version", "pyproject.toml"
        )
    else:
        yield Finding(Status.ok, "every requirement has a bound", source="pyproject.toml")


def imports(workspace: Workspace) -> Iterator[Finding]:
    """deptry's rules, for each member; exceptions stand in the root's [tool.wf-doctor.imports].

    deptry reads sources without running them, and knows packages by the environment it runs in: this one.
    """
    members = [member for member in workspace.members if member.folder != workspace.root]
    question = {
        "members": {member.name: str(member.folder) for member in members},
        "modules": {member.name: _module(member) for member in members},
        "ignores": workspace.settings.get("tool", {}).get("wf-doctor", {}).get("imports", {}),
    }
    answers: dict[str, list[dict[str, str]]] = ask(
        Path(sys.executable), "imports", question, cwd=workspace.root
    )
    num_problems = 0
    for member in members:
        for rule, found in _by_rule(member, answers[member.name]).items():
            num_problems += 1
            where = (member.folder / "pyproject.toml").relative_to(workspace.root)
            fix = f"{_FIXES.get(rule, 'change')} {where}, or except it in the root's [tool.wf-doctor.imports]"
            text = f"{member.name}: {_RULES.get(rule, rule)}: {listed(found, 6)}"
            expected = "imports = declarations"
            yield Finding(Status.warn, text, expected, fix, f"deptry {rule}", f"{member.name}-{rule}")
    if not num_problems:
        yield Finding(Status.ok, f"{len(answers)} members import what they declare", source="deptry")


def _by_rule(member: Member, violations: list[dict[str, str]]) -> dict[str, list[str]]:
    """`module (first file)` by rule. An extra is for whoever installs it: it need not be imported."""
    extras = {canonicalize_name(d.requirement.name) for d in member.declared if d.extra is not None}
    found: dict[str, dict[str, str]] = {}
    for violation in violations:
        module = violation["module"]
        if violation["rule"] != "DEP002" or canonicalize_name(module) not in extras:
            found.setdefault(violation["rule"], {}).setdefault(module, f"{module} ({violation['file']})")
    return {rule: list(modules.values()) for rule, modules in found.items()}


def _module(member: Member) -> str:
    """The package that it installs: the folder in its src."""
    packages = sorted(path.parent.name for path in member.folder.glob("src/*/__init__.py"))
    return packages[0] if packages else member.name.replace("-", "_")
