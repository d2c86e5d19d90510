from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wrinklefree.callbacks.random_state import random_state, set_random_state
from wrinklefree.checkpoints.manifest import (
    DamagedCheckpointError,
    verify_manifest,
    write_manifest,
)
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.checkpoints.tree import join_tensors, split_tensors


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_tree_survives_json() -> None:
    tree = {
        "floats": [0.1, 1e-300, -0.0, math.inf, math.nan, 2**0.5],
        "state": {0: {"step": torch.tensor(3.0)}, 1: {"m": torch.arange(6).view(2, 3)}},
        "tuple": (1, (2, None), True),
        "empty": {},
        "scalars": {"a": torch.tensor([True]), "b": torch.zeros(0, dtype=torch.uint8)},
        "__odd__": 1,
    }
    encoded, tensors = split_tensors(tree)
    assert _equal(join_tensors(json.loads(json.dumps(encoded)), tensors), tree)
    assert "state.0.step" in tensors


def test_tree_refuses_what_needs_pickle() -> None:
    with pytest.raises(TypeError, match=r"a\.1: a PosixPath"):
        split_tensors({"a": [1, Path("x")]})


def test_random_state_round_trip() -> None:
    encoded, tensors = split_tensors(random_state())
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    set_random_state(join_tensors(json.loads(json.dumps(encoded)), tensors))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn


def _fake(store: CheckpointStore, step: int) -> Path:
    folder = store.path(step)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(100)))
    write_manifest(folder)
    return folder


def _truncate(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(50)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[7] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def _lose(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


DAMAGES = [
    (_truncate, "model.safetensors has 50 bytes instead of 100"),
    (_flip, "contents of model.safetensors have changed"),
    (_lose, "model.safetensors is missing"),
    (_lose_manifest, "manifest.json is missing"),
    (_break_manifest, "manifest.json: "),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_refused_by_name(tmp_path: Path, damage: Any, message: str) -> None:
    store = CheckpointStore(tmp_path)
    older, newer = _fake(store, 2), _fake(store, 4)
    verify_manifest(newer)
    damage(newer)
    with pytest.raises(DamagedCheckpointError) as error:
        store.newest(allow_previous=False)
    assert str(newer) in str(error.value)
    assert message in str(error.value)
    assert "resume.allow_previous=true" in str(error.value)
    assert store.newest(allow_previous=True) == older


def test_no_older_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.newest(allow_previous=True) is None
    _truncate(_fake(store, 2))
    with pytest.raises(DamagedCheckpointError, match="no older one"):
        store.newest(allow_previous=False)
    with pytest.raises(DamagedCheckpointError, match="all checkpoints"):
        store.newest(allow_previous=True)


def test_prune(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (2, 4, 123456789):
        _fake(store, step)
    store.prune(2)
    assert store.steps() == [4, 123456789]
    assert len(list(tmp_path.iterdir())) == 2
