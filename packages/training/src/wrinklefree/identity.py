"""What makes a run this run: its fingerprint, and the state of the code.

The fingerprint is the SHA-256 of everything in the configuration that changes the result, plus the
exact checkpoint that the run starts from. Where it runs, how it logs and how often it saves do not
count. Commit and dirty flag are recorded beside it, not hashed: after a commit that changes a
README an unfinished run has to go on. Different code is reported as a warning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrinklefree.config.schema import TrainConfig

INFRASTRUCTURE_KEYS = (
    "experiment",
    "output_dir",
    "force",
    "num_threads",
    "logging",
    "resume",
    "distributed.kind",
    "distributed.accelerator",
    "distributed.backend",
    "training.checkpoint",
    "training.start_from",
    "training.gradient_checkpointing",
)
"""Left out of the fingerprint. `distributed.devices` and `num_nodes` stay: they change the batch."""


@dataclass(frozen=True)
class GitState:
    commit: str | None
    """None: not in a git work tree."""
    dirty: bool


@dataclass(frozen=True)
class RunIdentity:
    values: dict[str, Any]
    """Flat `dotted.key` -> JSON value."""
    git: GitState

    @property
    def fingerprint(self) -> str:
        canonical = json.dumps(self.values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def differences(self, other: dict[str, Any]) -> list[str]:
        """`key: there -> here` for every value that differs from those of another run."""
        keys = sorted(self.values.keys() | other.keys())
        return [
            f"{key}: {other.get(key, 'unset')!r} there, {self.values.get(key, 'unset')!r} now"
            for key in keys
            if self.values.get(key, "unset") != other.get(key, "unset")
        ]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dataclass dicts as dotted keys; lists stay values."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= flatten(child, f"{prefix}.{key}" if prefix else str(key))
    return flat


def identify(config: TrainConfig, parent: str | None, work_tree: Path) -> RunIdentity:
    """Identity of the run of `config` that starts from the checkpoint with digest `parent`."""
    flat = flatten(json.loads(json.dumps(dataclasses.asdict(config))))
    values = {key: value for key, value in flat.items() if not _is_infrastructure(key)}
    return RunIdentity(values | {"parent": parent}, git_state(work_tree))


def _is_infrastructure(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in INFRASTRUCTURE_KEYS)


def git_state(work_tree: Path) -> GitState:
    commit = _git(work_tree, "rev-parse", "HEAD")
    status = _git(work_tree, "status", "--porcelain", "--untracked-files=normal")
    return GitState(commit, bool(status))


def _git(work_tree: Path, *arguments: str) -> str | None:
    """Output of a git command; None where there is no git, no work tree or no commit."""
    command = ["git", "-C", str(work_tree), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
