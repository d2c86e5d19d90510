"""The safetensors reader against the reference library, and against damaged and hostile files."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from wf_formats.errors import LoadError
from wf_formats.json_file import read_json
from wf_formats.safetensors_file import open_folder, open_safetensors

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(8, dtype=np.uint8),
    "c": np.array([0.5, -2], np.float16),
}
GOOD = save(TENSORS, {"format": "pt"})


@pytest.fixture
def opened(tmp_path: Path):
    def make(data: bytes):
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        return open_safetensors(path)

    return make


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_reads_what_the_library_writes(opened):
    file = opened(GOOD)
    assert file.tensors.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(file.raw(name), expected)
        file.release(name)
    np.testing.assert_array_equal(file.rows("a", slice(1, 2)), [[3, 4, 5]])
    assert file.rows("c", slice(None)).dtype == np.float32
    with pytest.raises(LoadError, match="b is U8, floats were expected"):
        file.rows("b", slice(None))


def test_bf16_equals_torch(tmp_path):
    import torch
    from safetensors.torch import save_file as save_torch

    tensor = torch.randn(5, 7).to(torch.bfloat16)
    save_torch({"x": tensor}, tmp_path / "model.safetensors")
    file = open_safetensors(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(file.rows("x", slice(2, 4)), tensor.float().numpy()[2:4])


def entry(**changes) -> dict:
    return {"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} | changes}


HOSTILE = {
    "no header": (b"abc", "no safetensors file or cut off"),
    "empty": (b"", "is empty"),
    "length": (struct.pack("<Q", 2**63) + GOOD[8:], "a header of 9223372036854775808 bytes"),
    "json": (with_header(b"{"), "header is damaged"),
    "deep json": (with_header(b"[" * 100000), "header is damaged"),
    "long number": (with_header(b'{"x": ' + b"9" * 5000 + b"}"), "header is damaged"),
    "utf-8": (with_header(b'{"\xff": 1}'), "header is damaged"),
    "list": (with_header([]), "JSON list, not an object"),
    "twice": (with_header(b'{"x": 1, "x": 2}'), "'x' occurs twice"),
    "entry": (with_header({"x": 5}), "x is described by 5"),
    "dtype": (with_header(entry(dtype="F4"), bytes(4)), "unknown dtype 'F4'"),
    "dtype type": (with_header(entry(dtype=[1]), bytes(4)), "unknown dtype"),
    "shape": (with_header(entry(shape=[-4]), bytes(4)), r"shape \[-4\]"),
    "bool shape": (with_header(entry(shape=[True]), bytes(4)), "shape"),
    "huge shape": (with_header(entry(shape=[2**61, 2**61]), bytes(4)), "has 4 bytes"),
    "offsets": (with_header(entry(data_offsets=[4]), bytes(4)), "data_offsets"),
    "backwards": (with_header(entry(data_offsets=[4, 0]), bytes(4)), "has -4 bytes"),
    "beyond": (with_header(entry(shape=[2**40], data_offsets=[0, 2**40]), bytes(4)), "cut off or damaged"),
    "hole": (with_header(entry(data_offsets=[2, 6]), bytes(6)), "the header ends at"),
    "overlap": (with_header(entry() | {"y": entry(data_offsets=[2, 6])["x"]}, bytes(6)), "x ends at"),
    "tail": (with_header(entry(), bytes(9)), "cut off or damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name(opened, name):
    data, message = HOSTILE[name]
    with pytest.raises(LoadError, match=message):
        opened(data)


def test_a_huge_header_is_refused(opened):
    with pytest.raises(LoadError, match="allowed are 16777216"):
        opened(with_header(b" " * (1 << 24) + b"{}"))


def test_every_truncation_is_refused(opened):
    for length in range(len(GOOD)):
        with pytest.raises(LoadError):
            opened(GOOD[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 21), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_are_refused_or_read_in_bounds(opened, changes):
    data = bytearray(GOOD)
    for position, byte in changes:
        data[position] = byte
    tracemalloc.start()
    try:
        file = opened(bytes(data))
        for name, tensor in file.tensors.items():
            assert file.raw(name).shape == tensor.shape
    except LoadError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file({"a": TENSORS["a"]}, tmp_path / "model-1.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "model-2.safetensors")
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(sharded):
    write_index(sharded, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    folder = open_folder(sharded)
    assert folder.shapes == {"a": (2, 3), "b": (8,)}
    np.testing.assert_array_equal(folder.rows("a", slice(None)), TENSORS["a"])


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (5, "does not map"),
        ({"a": "../model-1.safetensors"}, "does not map"),
        ({"a": "model-3.safetensors"}, "model-3.safetensors is missing"),
        ({"a": "model-1.safetensors"}, None),
        ({"a": "model-1.safetensors", "c": "model-2.safetensors"}, "does not list the tensors"),
    ],
)
def test_an_index_that_disagrees_is_refused(sharded, weight_map, message):
    write_index(sharded, weight_map)
    if message is None:  # a file that the index does not name is not opened
        assert open_folder(sharded).shapes == {"a": (2, 3)}
        return
    with pytest.raises(LoadError, match=message):
        open_folder(sharded)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(LoadError, match=r"model\.safetensors is missing"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    "kind", ["is no regular file", "is a folder", "is a link to nowhere, which is missing"]
)
def test_what_is_in_the_place_of_weights_is_named(name, kind, tmp_path):
    path = tmp_path / name
    if kind == "is no regular file":
        os.mkfifo(path)
    elif kind == "is a folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(LoadError, match=f"{name} {kind}"):
        open_folder(tmp_path)


def test_a_pipe_in_the_place_of_a_configuration_is_named(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(LoadError, match=r"config\.json is no regular file"):
        read_json(tmp_path / "config.json")
