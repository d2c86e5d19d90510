"""Which projects need `uv sync` on the remote: those whose files for uv are others than at the last time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from wf_deployer.sync.remote_program import checksum

_FILES = ("pyproject.toml", "uv.lock", "uv.toml", ".python-version")


def pending_projects(
    projects: Sequence[str], identities: Mapping[str, str], done: Mapping[str, str]
) -> dict[str, str]:
    """Digests by project, of those to sync.

    Args:
        done: Digests at the last `uv sync` that succeeded there.
    """
    digests = {project: _digest(project, identities) for project in projects}
    return {project: digest for project, digest in digests.items() if done.get(project) != digest}


def _digest(project: str, identities: Mapping[str, str]) -> str:
    """Of the project, of the folders around it, since a workspace's lock stands at its top, and of those in
    it, since scripts and entry points of a workspace's members change without its lock."""
    folder = PurePosixPath(project)
    around = {str(place) for place in (folder, *folder.parents)}

    def counts(path: PurePosixPath) -> bool:
        return path.name in _FILES and (str(path.parent) in around or path.is_relative_to(folder))

    return checksum({path: identity for path, identity in identities.items() if counts(PurePosixPath(path))})
