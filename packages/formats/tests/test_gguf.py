"""The GGUF reader against gguf-py, byte for byte, and against damaged and hostile files."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wf_formats.gguf import GgufError, TensorType, open_gguf
from wf_formats.gguf.blocks import codes_and_scales, values
from wf_formats.gguf.codecs import SCALE_GROUPS

STRING, ARRAY, U32, BOOL = 8, 9, 4, 7
HALF_POSITIONS = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "TQ1_0": [52],
    "TQ2_0": [64],
    "F16": [0],
}


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def entry(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in reversed(shape))
    return string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def assemble(keys=(), tensors=(), data=b"", version=3, counts=None, alignment=32) -> bytes:
    num_tensors, num_keys = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % alignment) + data


KEYS = (
    key("general.architecture", STRING, string("llama")),
    key("list", ARRAY, struct.pack("<IQ", STRING, 2) + string("a") + string("ü")),
    key("numbers", ARRAY, struct.pack("<IQ3i", 5, 3, -1, 2, 3)),
    key("flags", ARRAY, struct.pack("<IQ2B", BOOL, 2, 1, 0)),
    key("nested", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ2H", 2, 2, 7, 8)),
)
TENSORS = (entry("one", (2, 3), 0, 0), entry("two", (2, 32), 8, 32))
DATA = np.arange(6, dtype=np.float32).tobytes() + bytes(8) + bytes(range(68))
GOOD = assemble(KEYS, TENSORS, DATA)


@pytest.fixture
def opened(tmp_path: Path):
    def make(data: bytes):
        path = tmp_path / "file.gguf"
        path.write_bytes(data)
        return open_gguf(path)

    return make


def test_reads_keys_table_and_values(opened):
    file = opened(GOOD)
    assert file.version == 3
    assert file.keys == {
        "general.architecture": "llama",
        "list": ["a", "ü"],
        "numbers": [-1, 2, 3],
        "flags": [True, False],
        "nested": [[7, 8]],
    }
    assert file.tensors["two"].shape == (2, 32)
    assert file.tensors["two"].type_name == "q8_0"
    np.testing.assert_array_equal(file.values("one"), [[0, 1, 2], [3, 4, 5]])
    file.release("one")
    np.testing.assert_array_equal(file.values("one"), [[0, 1, 2], [3, 4, 5]])


def test_block_sizes_are_those_of_gguf_py():
    theirs = {kind.name: sizes for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()}
    ours = {kind.name: (kind.block, kind.block_bytes) for kind in TensorType}
    assert {name: ours[name] for name in theirs} == theirs
    assert set(ours) - set(theirs) == {"I2_S", "Q2_0"}


@pytest.mark.parametrize("name", HALF_POSITIONS)
def test_random_blocks_decode_as_gguf_py_does(name):
    kind, rng = TensorType[name], np.random.default_rng(3)
    blocks = rng.integers(0, 256, (64, kind.block_bytes), dtype=np.uint8)
    for position in HALF_POSITIONS[name]:
        blocks[:, position : position + 2] = rng.normal(size=(64, 1)).astype(np.float16).view(np.uint8)
    expected = gguf.quants.dequantize(blocks.reshape(4, -1), gguf.GGMLQuantizationType[name])
    found = values(blocks.reshape(-1), kind, expected.shape)
    if name in ("Q4_K", "Q5_K"):  # d s 8 - e t is rounded once
        np.testing.assert_allclose(found, expected, rtol=0, atol=2**-22 * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(found, expected)


def test_bf16_values():
    floats = np.array([[1.5, -2.0, 3.140625]], np.float32)
    data = np.ascontiguousarray((floats.view(np.uint32) >> 16).astype("<u2")).view(np.uint8).reshape(-1)
    np.testing.assert_array_equal(values(data, TensorType.BF16, (1, 3)), floats)


def i2_s_bytes(codes: np.ndarray, scale: float) -> np.ndarray:
    """Written weight by weight from the description of the layout, the slow way."""
    flat = codes.reshape(-1) + 1
    packed = np.zeros(flat.size // 4, np.uint8)
    for index, level in enumerate(flat.tolist()):
        block, inside = divmod(index, 128)
        packed[32 * block + inside % 32] |= level << (6 - 2 * (inside // 32))
    trailer = np.zeros(32, np.uint8)
    trailer[:4] = np.array([scale], "<f4").view(np.uint8)
    return np.concatenate([packed, trailer])


def test_i2_s_and_q2_0_follow_their_description():
    codes = np.random.default_rng(1).integers(-1, 2, (3, 256)).astype(np.int8)
    found, scales = codes_and_scales(i2_s_bytes(codes, 0.75), TensorType.I2_S, 256)
    np.testing.assert_array_equal(found, codes)
    assert (scales == 0.75).all()
    blocks = np.zeros((12, 18), np.uint8)
    blocks[:, :2] = np.float16(0.5).tobytes()[0], np.float16(0.5).tobytes()[1]
    for block, row in zip(blocks, codes.reshape(12, 64).tolist(), strict=True):
        for j, code in enumerate(row):
            block[2 + j // 4] |= (code + 1) << 2 * (j % 4)
    found, scales = codes_and_scales(blocks.reshape(-1), TensorType.Q2_0, 256)
    np.testing.assert_array_equal(found, codes)
    assert (scales == 0.5).all()


def test_a_packaged_file_reads_as_gguf_py_reads_it(packaged_gguf, packaged_reader):
    theirs, ours = packaged_reader, open_gguf(packaged_gguf)
    for name in ("llama.rope.freq_base", "tokenizer.ggml.merges", "tokenizer.chat_template"):
        assert ours.keys[name] == theirs.fields[name].contents()
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors[:12]:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.values(tensor.name).reshape(expected.shape), expected)


HOSTILE = {
    "magic": (b"PK" + GOOD, "begins with"),
    "version": (assemble(version=1), "version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "keys": (assemble(counts=(0, 2**61)), "number of keys"),
    "tensors": (assemble(counts=(2**63, 0)), "number of tensors"),
    "string": (assemble([struct.pack("<Q", 2**62) + bytes(5)]), "name of key 0"),
    "utf-8": (assemble([key("k", STRING, string(b"\xff"))]), "'k' at byte .* is not UTF-8"),
    "type": (assemble([key("k", 13, b"\0" * 16)]), "unknown value type 13"),
    "item type": (
        assemble([key("k", ARRAY, struct.pack("<IQ", 77, 0))]),
        "unknown value type 77",
    ),
    "array": (assemble([key("k", ARRAY, struct.pack("<IQ", U32, 2**60))]), "length of key 'k'"),
    "array of strings": (assemble([key("k", ARRAY, struct.pack("<IQ", STRING, 2**40))]), "length of key 'k'"),
    "depth": (assemble([key("k", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5000)]), "deeper than 4"),
    "bool": (assemble([key("k", BOOL, b"\2")]), "boolean of value 2"),
    "twice": (assemble([KEYS[0]] * 2), "'general.architecture' occurs twice"),
    "alignment": (assemble([key("general.alignment", U32, struct.pack("<I", 48))]), "power of two"),
    "alignment 0": (assemble([key("general.alignment", U32, bytes(4))]), "power of two"),
    "alignment huge": (assemble([key("general.alignment", U32, b"\0\0\0\x80")]), "power of two"),
    "alignment type": (assemble([key("general.alignment", STRING, string("x"))]), "power of two"),
    "tensor twice": (assemble((), [TENSORS[0]] * 2, DATA), "tensor 'one' occurs twice"),
    "dimensions": (assemble((), [entry("t", (1,) * 5, 0, 0)]), "5 dimensions"),
    "empty": (assemble((), [entry("t", (0, 2), 0, 0)]), "is empty"),
    "rows": (assemble((), [entry("t", (2, 33), 8, 0)], bytes(99)), "not a multiple of 32"),
    "offset": (assemble((), [entry("t", (2,), 0, 4)], bytes(99)), "offset 4 is not a multiple"),
    "far offset": (assemble((), [entry("t", (2,), 0, 2**63)], bytes(99)), "ends inside tensor 't'"),
    "size": (assemble((), [entry("t", (2**40, 2**20), 0, 0)], bytes(99)), "ends inside tensor 't'"),
    "overflow": (assemble((), [entry("t", (2**63, 2**63), 0, 0)], bytes(99)), "ends inside tensor 't'"),
    "overlap": (assemble((), [TENSORS[1], entry("z", (8,), 0, 64)], bytes(999)), "'z' overlaps 'two'"),
    "long name": (assemble((), [entry("n" * 65, (1,), 0, 0)], bytes(9)), "65 bytes, allowed are 64"),
    "empty file": (b"", "is empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name(opened, name):
    data, message = HOSTILE[name]
    with pytest.raises(GgufError, match=message):
        opened(data)


def test_an_unknown_tensor_type_can_be_listed_but_not_read(opened):
    file = opened(assemble((), [entry("t", (4,), 99, 0)], bytes(64)))
    assert file.tensors["t"].type_name == "type99"
    with pytest.raises(GgufError, match="'t' has the unknown type 99"):
        file.values("t")
    with pytest.raises(GgufError, match="'u' is missing"):
        file.values("u")


def test_a_type_without_decoder_is_named(opened):
    file = opened(assemble((), [entry("t", (256,), int(TensorType.Q3_K), 0)], bytes(110)))
    with pytest.raises(GgufError, match="q3_k cannot be decoded"):
        file.values("t")


def test_a_folder_is_no_gguf_file(tmp_path):
    with pytest.raises(GgufError, match="no regular file"):
        open_gguf(tmp_path)


def test_every_truncation_is_refused(opened):
    for length in range(len(GOOD)):
        with pytest.raises(GgufError):
            opened(GOOD[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_are_refused_or_read_in_bounds(opened, changes):
    data = bytearray(GOOD)
    for position, byte in changes:
        data[position] = byte
    try:
        file = opened(bytes(data))
        for name, tensor in file.tensors.items():
            assert tensor.type in SCALE_GROUPS or file.values(name).shape == tensor.shape
    except GgufError:
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 8), st.sampled_from([2**64 - 1, 2**63, 2**40, 2**32 - 1, 0]))
def test_huge_numbers_cost_neither_time_nor_memory(opened, position, number):
    data = GOOD[:position] + struct.pack("<Q", number) + GOOD[position + 8 :]
    tracemalloc.start()
    start = time.perf_counter()
    try:
        opened(data)
    except GgufError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("kind", SCALE_GROUPS)
def test_random_bytes_decode_to_the_right_shape(kind):
    data = np.random.default_rng(2).integers(0, 256, kind.num_bytes(4 * 512), dtype=np.uint8)
    codes, scales = codes_and_scales(data, kind, 512)
    assert codes.shape == (4, 512)
    assert scales.shape == (4, 512 // SCALE_GROUPS[kind])


@pytest.mark.parametrize(
    ("arch", "file_type", "kind", "what"),
    [
        ("llama", 38, 38, "TL1 of bitnet.cpp, whose tiles are compiled into one build"),
        ("bitnet-b1.58", 1, 39, "TL2 of bitnet.cpp"),
        ("llama", 39, 39, "TL2 of bitnet.cpp"),
        ("llama", 1, 134, "IQ1_BN of ik_llama.cpp"),
        ("bitnet", 1, 135, "IQ2_BN of ik_llama.cpp; its llama-quantize makes them of I2_S files"),
        ("bitnet", 1, 335, "IQ2_BN_R4 of ik_llama.cpp"),
    ],
)
def test_types_of_forks_are_told_by_name(tmp_path, arch, file_type, kind, what):
    """Of their sizes nothing is known: TL2's is not that of MXFP4, which has its number."""
    keys = [
        key("general.architecture", STRING, string(arch)),
        key("general.file_type", U32, struct.pack("<I", file_type)),
    ]
    path = tmp_path / "model.gguf"
    path.write_bytes(assemble(keys, [entry("blk.0.ffn_up.weight", (6, 64), kind, 0)], bytes(1000)))
    with pytest.raises(GgufError, match=f"tensor 'blk.0.ffn_up.weight' has type {kind}, {what}"):
        _ = open_gguf(path).tensors["blk.0.ffn_up.weight"].type


def test_mxfp4_of_llama_cpp_stays_what_it_is(tmp_path):
    keys = [
        key("general.architecture", STRING, string("llama")),
        key("general.file_type", U32, struct.pack("<I", 38)),
    ]
    path = tmp_path / "model.gguf"
    path.write_bytes(assemble(keys, [entry("one", (2, 64), 39, 0)], bytes(4 * 17)))
    assert open_gguf(path).tensors["one"].type is TensorType.MXFP4
