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
    """Of the project and of the folders around it, since a workspace's lock stands at its top."""
    folder = PurePosixPath(project)
    paths = [str(place / name) for place in (folder, *folder.parents) for name in _FILES]
    return checksum({path: identities[path] for path in paths if path in identities})
