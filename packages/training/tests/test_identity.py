from __future__ import annotations

import subprocess
from pathlib import Path

from wrinklefree.config import compose_config
from wrinklefree.identity import RunIdentity, git_state, identify


def _identity(*overrides: str, parent: str | None = "p") -> RunIdentity:
    config = compose_config(["training=stage2_pretrain", *overrides])
    return identify(config, parent, Path(__file__).parent)


def test_infrastructure_does_not_count() -> None:
    same = [
        "output_dir=/elsewhere",
        "logging=wandb",
        "num_threads=1",
        "force=true",
        "resume.allow_previous=true",
        "training.checkpoint.every_steps=7",
    ]
    assert _identity(*same).fingerprint == _identity().fingerprint


def test_what_changes_the_result_counts() -> None:
    reference = _identity()
    for override in ("seed=1", "training.max_steps=5", "data.num_workers=1", "optimizer=muon"):
        assert _identity(override).fingerprint != reference.fingerprint, override
    assert _identity(parent="q").fingerprint != reference.fingerprint


def test_differences_name_the_keys() -> None:
    assert _identity("seed=1").differences(_identity().values) == ["seed: 0 there, 1 now"]


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path).commit is None
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = git_state(tmp_path)
    assert clean.commit is not None
    assert not clean.dirty
    (tmp_path / "new").write_text("")
    assert git_state(tmp_path).dirty
