"""What this checkout has of a package, to compare others with."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from wf_deployer.doctor.workspace.checkout import Workspace


def locked_here(ours: Workspace, name: str) -> list[Version]:
    """All versions of uv.lock: the extras have their own. None for members of the checkout itself."""
    if any(member.name == name for member in ours.members):
        return []
    found = []
    for entry in ours.lock.get(name, ()):
        try:
            found.append(Version(entry["version"]))
        except (InvalidVersion, KeyError):
            continue
    return found


def ours_of(ours: Workspace, name: str) -> SpecifierSet:
    """The bounds that the members declare, together; those of extras and groups apart."""
    bounds = SpecifierSet()
    for member in ours.members:
        for declared in member.declared:
            requirement = declared.requirement
            is_base = declared.extra is None and declared.group is None
            if is_base and canonicalize_name(requirement.name) == name:
                bounds &= requirement.specifier
    return bounds


def torch_here(ours: Workspace) -> str:
    """`here torch 2.15.0+cu132 (C++11 ABI)`."""
    torch = ours.facts["torch"] if ours.is_own else None
    if torch is None or "error" in torch:
        return "here is no torch"
    abi = "C++11 ABI" if torch["cxx11_abi"] else "ABI of before C++11"
    return f"here torch {torch['version']} ({abi})"
