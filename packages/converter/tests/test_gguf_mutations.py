"""An exported file of which anything that decides the answers was dropped, relabelled or stored otherwise."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from wf_converter.gguf_export import prepare_gguf
from wf_formats.errors import LoadError
from wf_formats.gguf import GgufError, TensorType, ValueType, open_gguf
from wf_formats.gguf.header import _Cursor, _value
from wf_formats.models import open_model
from wf_formats.models.gguf_seal import SEAL_KEY

CASES = {
    "llama-tensor-192": "auto",
    "llama-group64-untied": "q2_0",
    "qwen2-group128": "q4_0",
    "qwen3-group64": "q2_0",
}
LABELS = [TensorType[name] for name in ("F32", "F16", "BF16", "I16", "Q4_0", "IQ4_NL", "Q8_0", "Q2_0")]
"""Of every size, and several of the same."""
INTEGERS = {ValueType.UINT32: "I", ValueType.UINT64: "Q", ValueType.INT32: "i"}
FLOATS = {ValueType.FLOAT32: "f", ValueType.FLOAT64: "d"}


@dataclass(frozen=True)
class Entry:
    """A tensor of the table and its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes


@dataclass(frozen=True)
class Parts:
    """A file taken apart."""

    keys: dict[str, tuple[int, bytes]]
    tensors: tuple[Entry, ...]

    def write(self, path: Path) -> Path:
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.keys))
        for name, (kind, value) in self.keys.items():
            head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value
        offset, data = 0, b""
        for entry in self.tensors:
            sizes = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
            head += struct.pack("<Q", len(entry.name)) + entry.name.encode() + sizes
            head += struct.pack("<IQ", entry.kind, offset)
            data += entry.data + bytes(-len(entry.data) % 32)
            offset = len(data)
        path.write_bytes(head + bytes(-len(head) % 32) + data)
        return path

    def with_key(self, name: str, value: tuple[int, bytes] | None) -> Parts:
        keys = {key: stored for key, stored in self.keys.items() if key != name}
        return replace(self, keys=keys if value is None else {**keys, name: value})

    def with_tensor(self, name: str, *changed: Entry) -> Parts:
        kept = [entry for entry in self.tensors if entry.name != name]
        return replace(self, tensors=(*kept, *changed))


@pytest.fixture(scope="module")
def parts(checkpoint, tmp_path_factory) -> Callable[[str], Parts]:
    """Factory (cached): an exported file of a case, taken apart."""
    made: dict[str, Parts] = {}

    def make(name: str) -> Parts:
        if name not in made:
            path = tmp_path_factory.mktemp("exports") / "model.gguf"
            prepare_gguf(checkpoint(name), CASES[name]).write(path)
            made[name] = taken_apart(path)
        return made[name]

    return make


def taken_apart(path: Path) -> Parts:
    data, file = memoryview(path.read_bytes()), open_gguf(path)
    cursor, keys = _Cursor(data, 24), {}
    for _ in file.keys:
        name, kind = cursor.string("a name"), cursor.scalar("I", "a kind")
        start = cursor.position
        _value(cursor, kind, name, 0)
        keys[name] = (kind, bytes(data[start : cursor.position]))
    tensors = file.tensors.values()
    return Parts(
        keys, tuple(Entry(t.name, t.shape, t.ggml_type, file.data(t.name).tobytes()) for t in tensors)
    )


def stored_otherwise(kind: int, value: bytes) -> Iterator[tuple[int, bytes]]:
    """The same value as other kinds."""
    code = (INTEGERS | FLOATS).get(ValueType(kind))
    if code is not None:
        number = struct.unpack("<" + code, value)[0]
        yield from ((k, struct.pack("<" + c, int(number))) for k, c in INTEGERS.items() if k != kind)
        yield from ((k, struct.pack("<" + c, float(number))) for k, c in FLOATS.items() if k != kind)
    yield ValueType.STRING, struct.pack("<Q", 1) + b"1"
    yield ValueType.ARRAY, struct.pack("<IQ", 4, 1) + struct.pack("<I", 1)
    yield ValueType.BOOL, b"\1"


def is_refused(changed: Parts, folder: Path) -> bool:
    try:
        open_model(changed.write(folder / "changed.gguf"))
    except (LoadError, GgufError) as error:
        return len(str(error)) > len(str(folder))
    return False


@pytest.mark.parametrize("case", CASES)
def test_the_parts_are_accepted_as_they_are(parts, tmp_path, case):
    path = parts(case).write(tmp_path / "same.gguf")
    assert open_gguf(path).keys[SEAL_KEY]
    open_model(path)


@pytest.mark.parametrize("case", CASES)
def test_no_key_can_be_dropped_or_stored_otherwise(parts, tmp_path, case):
    whole = parts(case)
    arch = whole.keys["general.architecture"][1][8:].decode()
    used = [name for name in whole.keys if name.startswith(f"{arch}.")]
    assert len(used) >= 10
    for name in [*used, "general.architecture"]:
        kind, value = whole.keys[name]
        changes = [None, *stored_otherwise(kind, value)]
        changes += [(kind, bytes([value[0] ^ 1]) + value[1:]), (kind, value[:-1] + bytes([value[-1] ^ 1]))]
        for change in changes:
            if change != (kind, value):
                assert is_refused(whole.with_key(name, change), tmp_path), (name, change)


@pytest.mark.parametrize("case", ["llama-tensor-192", "llama-group64-untied", "qwen2-group128"])
def test_no_tensor_can_be_dropped_or_relabelled(parts, tmp_path, case):
    whole = parts(case)
    for entry in whole.tensors:
        if entry.name.startswith("blk.0."):
            continue  # as those of the other block
        changes = [(), (replace(entry, name=f"{entry.name}s"),), (entry, replace(entry, name="another"))]
        changes += [(replace(entry, kind=int(kind)),) for kind in LABELS if kind != entry.kind]
        changes += [
            (replace(entry, shape=(*entry.shape, 1)),),
            (replace(entry, data=entry.data + bytes(32)),),
        ]
        for change in changes:
            assert is_refused(whole.with_tensor(entry.name, *change), tmp_path), (entry.name, change)


# ---- files of others have no digest: what the specification says of them


@pytest.fixture
def foreign(parts) -> Callable[[str], Parts]:
    return lambda case: parts(case).with_key(SEAL_KEY, None)


@pytest.mark.parametrize("case", CASES)
def test_files_of_others_have_the_kinds_of_the_specification(foreign, tmp_path, case):
    whole = foreign(case)
    open_model(whole.write(tmp_path / "same.gguf"))
    arch = whole.keys["general.architecture"][1][8:].decode()
    for name, (kind, value) in whole.keys.items():
        if name.startswith(f"{arch}."):
            for other, changed in stored_otherwise(kind, value):
                if (kind, other) != (ValueType.UINT32, ValueType.UINT64):
                    assert is_refused(whole.with_key(name, (other, changed)), tmp_path), (name, other)


@pytest.mark.parametrize("case", ["llama-tensor-192"])
def test_each_matrix_has_its_scale_or_none_has(foreign, tmp_path, case):
    whole = foreign(case)
    scales = [entry for entry in whole.tensors if entry.name.endswith(".scale")]
    assert len(scales) == 14
    for entry in scales:
        assert is_refused(whole.with_tensor(entry.name), tmp_path)
        half = replace(entry, kind=int(TensorType.F16), data=entry.data[:2])
        assert is_refused(whole.with_tensor(entry.name, half), tmp_path)


ABSURD = {
    "attention.layer_norm_rms_epsilon": [0.0, -1e-5, math.nan, math.inf, 1e-30, 0.5, 1e30],
    "rope.freq_base": [0.0, -1e4, math.nan, math.inf, 1e-5, 1e30],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in ABSURD for value in ABSURD[name]])
def test_absurd_numbers_are_refused(foreign, tmp_path, name, value):
    whole = foreign("qwen3-group64")
    changed = whole.with_key(f"qwen3.{name}", (ValueType.FLOAT32, struct.pack("<f", value)))
    with pytest.raises(LoadError, match=name.rpartition(".")[2].replace("layer_norm_rms_epsilon", "eps")):
        open_model(changed.write(tmp_path / "changed.gguf"))


@pytest.mark.parametrize("num_bytes", [32, 64, 4096])
def test_bytes_that_belong_to_no_tensor_are_refused(foreign, tmp_path, num_bytes):
    path = foreign("qwen3-group64").write(tmp_path / "model.gguf")
    with path.open("ab") as file:
        file.write(bytes(num_bytes))
    with pytest.raises(GgufError, match="the file ends at"):
        open_gguf(path)
