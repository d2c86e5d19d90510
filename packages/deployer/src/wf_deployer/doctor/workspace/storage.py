"""Folders that commands write into, and the space that is left there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.workspace.checkout import Workspace
from wf_formats.packaged import CACHE_VARIABLE, cache_folder

_FEW_BYTES, _LOW_BYTES = 1 << 30, 10 << 30


@dataclass(frozen=True)
class Place:
    """Attributes: variable is what moves it; is_made, whether who writes there makes it first."""

    name: str
    folder: Path
    variable: str
    is_made: bool = True


def places(workspace: Workspace) -> list[Place]:
    """Folders that commands write into."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache")
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface")
    return [
        Place("cache", cache_folder(), CACHE_VARIABLE),
        Place("hub", Path(os.environ.get("HF_HUB_CACHE") or hub / "hub"), "HF_HOME"),
        Place("uv", Path(os.environ.get("UV_CACHE_DIR") or home / "uv"), "UV_CACHE_DIR"),
        Place("outputs", workspace.root / "outputs", "output_dir"),
        Place("runs", Path(os.environ.get("WF_RUNS_DIR") or workspace.root / "runs"), "WF_RUNS_DIR"),
        Place("temporary", Path(os.environ.get("TMPDIR") or "/tmp"), "TMPDIR", is_made=False),
    ]


def writable(workspace: Workspace) -> Iterator[Finding]:
    """Nothing is written: the system is asked whether it would be allowed."""
    for place in places(workspace):
        existing = next(
            path for path in (place.folder, *place.folder.absolute().parents) if os.path.lexists(path)
        )
        fix = f"change its permissions, or set {place.variable} to another folder"
        if not place.is_made and existing != place.folder:
            yield Finding(
                Status.fail, f"{place.folder} is missing", "a folder", fix, place.variable, place.name
            )
        elif not existing.is_dir():
            yield Finding(
                Status.fail, f"{existing} is no folder", "a folder", fix, place.variable, place.name
            )
        elif not os.access(existing, os.W_OK | os.X_OK):
            yield Finding(
                Status.fail,
                f"{existing} cannot be written",
                "a writable folder",
                fix,
                place.variable,
                place.name,
            )
        else:
            yield Finding(Status.ok, str(place.folder), source=place.variable, part=place.name)


def free_disk(workspace: Workspace) -> Iterator[Finding]:
    """A model, its checkpoints and an export take gigabytes."""
    seen = set()
    for place in places(workspace):
        existing = next(path for path in (place.folder, *place.folder.absolute().parents) if path.exists())
        device = existing.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(existing).free
        status = Status.fail if free < _FEW_BYTES else Status.warn if free < _LOW_BYTES else Status.ok
        fix = "" if status is Status.ok else f"free some space, or move it ({place.variable})"
        found = f"{free / 2**30:.1f} GiB free at {existing}"
        yield Finding(status, found, "10 GiB", fix, "statvfs", place.name)
