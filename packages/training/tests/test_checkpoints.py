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
from wrinklefree.checkpoints.part_store import PartStore
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
    assert _equal(join_tensors(json.loads(json.dumps(encoded, allow_nan=False)), tensors), tree)
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


def _entries(folder: Path) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["files"]
    return entries


GOOD = {"bytes": 100, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "contents",
    [
        None,
        [],
        7,
        "files",
        {},
        {"files": None},
        {"files": []},
        {"files": {}},
        {"files": ["model.safetensors"]},
        {"files": {"model.safetensors": None}},
        {"files": {"model.safetensors": [100, "0"]}},
        {"files": {"model.safetensors": {"bytes": "100", "sha256": "0" * 64}}},
        {"files": {"model.safetensors": {"bytes": True, "sha256": "0" * 64}}},
        {"files": {"model.safetensors": {"bytes": -1, "sha256": "0" * 64}}},
        {"files": {"model.safetensors": {"bytes": 100, "sha256": 0}}},
        {"files": {"model.safetensors": {"bytes": 100, "sha256": "zz"}}},
        {"files": {"model.safetensors": {"bytes": 100}}},
        {"files": {"model.safetensors": {"files": GOOD}}},
        {"files": {"../model.safetensors": GOOD}},
        {"files": {"a" * 70_000: GOOD}},
        {"files": {"/etc/hostname": GOOD}},
        {"files": {"a/../model.safetensors": GOOD}},
        {"files": {"./model.safetensors": GOOD}},
        {"files": {"": GOOD}},
        {"files": {"model\0": GOOD}},
        {"files": {"manifest.json": GOOD}},
    ],
)
def test_a_manifest_of_another_shape_is_damage(tmp_path: Path, contents: Any) -> None:
    folder = _fake(CheckpointStore(tmp_path), 2)
    (folder / "manifest.json").write_text(json.dumps(contents))
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: "):
        verify_manifest(folder)


@pytest.mark.parametrize("text", [b"\xff", b"[" * 100_000, b"", b"{"])
def test_a_manifest_that_is_no_json_is_damage(tmp_path: Path, text: bytes) -> None:
    folder = _fake(CheckpointStore(tmp_path), 2)
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: "):
        verify_manifest(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "deeper/file", "link"])
def test_every_file_is_listed(tmp_path: Path, name: str) -> None:
    """An entry that was taken out, and a file, a file in a folder and a link that were put in."""
    folder = _fake(CheckpointStore(tmp_path), 2)
    (folder / "config.json").write_text("{}")
    write_manifest(folder)
    entries = _entries(folder)
    if name in entries:
        del entries[name]
        (folder / "manifest.json").write_text(json.dumps({"files": entries}))
    elif name == "link":
        (folder / name).symlink_to("nowhere")
    else:
        (folder / name).parent.mkdir()
        (folder / name).write_text("")
    with pytest.raises(DamagedCheckpointError, match=f"{name} is not listed"):
        verify_manifest(folder)


def test_figures_and_hidden_files_need_no_entry(tmp_path: Path) -> None:
    folder = _fake(CheckpointStore(tmp_path), 2)
    for name in ("figures.json", ".nfs0001", ".DS_Store"):
        (folder / name).write_text("{}")
    verify_manifest(folder)
    write_manifest(folder)
    assert set(_entries(folder)) == {"model.safetensors"}


def test_what_a_checkpoint_cannot_do_without_is_listed(tmp_path: Path) -> None:
    folder = _fake(CheckpointStore(tmp_path), 2)
    with pytest.raises(DamagedCheckpointError, match=r"does not list optimizer\.safetensors"):
        verify_manifest(folder, ("model.safetensors", "optimizer.safetensors"))


def test_a_part_is_complete(tmp_path: Path) -> None:
    store = PartStore(tmp_path)
    store.save("a", {"x": torch.zeros(2)}, {})
    (tmp_path / "a" / "report.json").unlink()
    write_manifest(tmp_path / "a")
    with pytest.raises(DamagedCheckpointError, match=r"does not list report\.json"):
        store.load("a")


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
