from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from wrinklefree.compose.composing import compose_config
from wrinklefree.identity import GitState, RunIdentity, git_state, identify
from wrinklefree.stages.registry import stage_of


def _identity(*overrides: str, parent: str | None = "p") -> RunIdentity:
    config = compose_config(["training=stage2_pretrain", *overrides])
    return identify(config, parent, Path(__file__).parent, stage_of(config).infrastructure_keys)


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
    for override in (
        "seed=1",
        "training.max_steps=5",
        "data.num_workers=1",
        "optimizer=muon",
        "optimizer.state=int8",
    ):
        assert _identity(override).fingerprint != reference.fingerprint, override
    assert _identity(parent="q").fingerprint != reference.fingerprint


def test_differences_name_the_keys() -> None:
    differences = _identity("seed=1").differences(_identity().values)
    assert list(differences.values()) == ["seed: 0 there, 1 now"]
    differences = _identity("optimizer.state=bf16").differences(_identity("optimizer.state=int8").values)
    assert list(differences.values()) == ["optimizer.state: 'int8' there, 'bf16' now"]


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
    (tmp_path / "uv.lock").write_text("")
    assert not git_state(tmp_path).dirty, "uv completes its lock file in place"
    (tmp_path / "package").mkdir()
    (tmp_path / "new").write_text("")
    assert git_state(tmp_path / "package").dirty, "the whole repository counts"


def test_unknown_git_state_is_not_clean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    (tmp_path / ".git" / "config").write_text("[core\n")
    assert git_state(tmp_path) == GitState(None, dirty=None)
    assert "the commit is not recorded: git -C" in caplog.text
    assert "bad config" in caplog.text


def test_no_git_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) == GitState(None, dirty=False)


def test_what_changes_the_rounding_is_recorded() -> None:
    changed = _identity("distributed.kind=ddp", "distributed.accelerator=gpu")
    assert changed.fingerprint == _identity().fingerprint
    assert changed.rounding_differences(_identity().rounding) == [
        "distributed.accelerator: 'auto' there, 'gpu' now",
        "distributed.kind: 'single' there, 'ddp' now",
    ]
    assert changed.rounding["num_threads"] == torch.get_num_threads()


def test_who_makes_the_passes_of_a_step_does_not_count() -> None:
    two = _identity("distributed=ddp", "distributed.devices=2", "training.accumulate_steps=3")
    one = _identity("data.num_shares=2", "training.accumulate_steps=6")
    assert one.fingerprint == two.fingerprint
    assert "training.accumulate_steps: 3 there, 6 now" in one.rounding_differences(two.rounding)
    other_data = _identity("training.accumulate_steps=6")
    assert list(other_data.differences(two.values)) == ["data.num_shares"]
    assert other_data.in_shares_of(two.values).fingerprint == two.fingerprint
    other_step = _identity("training.accumulate_steps=3", "data.num_shares=2").differences(two.values)
    assert list(other_step.values()) == ["training.accumulate_steps x processes: 6 there, 3 now"]


def test_runs_of_before_shares_are_the_same() -> None:
    """run.json then had the numbers as they were given."""
    one, two = _identity(), _identity("distributed=ddp", "distributed.devices=2")
    assert "data.num_shares" not in one.values
    of_two = {k: v for k, v in two.values.items() if k != "data.num_shares"}
    of_two |= {"distributed.devices": 2, "training.accumulate_steps": 1}
    assert not two.differences(of_two)
    assert not one.differences(one.values)
    assert list(one.differences(of_two)) == ["data.num_shares", "training.accumulate_steps"]
    assert one.differences({**of_two, "distributed.devices": "2"}), "a damaged file is a difference"
