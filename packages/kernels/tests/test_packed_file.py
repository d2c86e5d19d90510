"""The file of a packed model: logits from it are equal to the bit, and damage of its header is seen."""

from __future__ import annotations

import dataclasses
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ternary_kernels as tk
from ternary_kernels.large_pages import large_page_share, mappings
from ternary_kernels.packed import layout
from ternary_kernels.packed.contents import facts_of, sections_of, weights_of
from ternary_kernels.packed.layout import PackedFile, PackedFileError, open_file
from wf_formats.families.block import MATRICES, VECTORS, part_shape

CONFIG = tk.DecoderConfig(
    hidden_size=192,
    intermediate_size=384,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=48,
    vocab_size=50,
    rms_norm_eps=1e-5,
    activation="silu",
    attention=(tk.LayerAttention(tk.Rope((1.0, 0.25, 1 / 3), 1.5), 5), tk.LayerAttention(None)),
    attention_scale=48**-0.5,
    context_tokens=64,
)
SCALES = {"tensor": (), "row": (1,), "group32": (32,), "group96": (96,)}
KINDS = [
    *((format, 8, scales, False) for format in ("t2", "t5") for scales in SCALES),
    *(("t2", bits, "row", True) for bits in (4, 6, 8)),
]


def ternary(rng: np.random.Generator, shape: tuple[int, ...], scales: str, format: Any) -> tk.Matrix:
    rows, cols = shape
    values = {"tensor": np.float32(0.02), "row": rng.uniform(0.01, 0.03, rows)}
    group = SCALES[scales][0] if SCALES[scales] else 1
    given = values.get(scales, rng.uniform(0.01, 0.03, (rows, cols // group)))
    return tk.pack_ternary(rng.integers(-1, 2, shape).astype(np.int8), np.asarray(given, np.float32), format)


def table(rng: np.random.Generator, bits: int, config: tk.DecoderConfig = CONFIG) -> tk.Matrix:
    shape, half = (config.vocab_size, config.hidden_size), 2 ** (bits - 1)
    scales = rng.uniform(0.01, 0.03, (shape[0], shape[1] // 16)).astype(np.float32)
    return tk.pack_groups(rng.integers(-half, half, shape).astype(np.int8), scales, bits)


def model(
    format: str = "t2", bits: int = 8, scales: str = "group32", is_full: bool = True
) -> tk.ModelWeights:
    """Random weights; full: with a head, every vector, and corrections."""
    rng = np.random.default_rng(0)

    def layer() -> tk.LayerWeights:
        matrices = {part: ternary(rng, part_shape(CONFIG, part), scales, format) for part in MATRICES}
        names = VECTORS if is_full else VECTORS[:2]
        vectors = {name: rng.uniform(0.9, 1.1, part_shape(CONFIG, name)).astype(np.float32) for name in names}
        corrections = {f"{part}_correction": correction(part) for part in MATRICES if is_full}
        return tk.LayerWeights(**matrices, **vectors, **corrections)

    def correction(part: str) -> tk.LowRank:
        rows, cols = part_shape(CONFIG, part)
        factors = rng.normal(0, 0.1, (rows, 3)), rng.normal(0, 0.1, (3, cols))
        return tk.LowRank(*(factor.astype(np.float32) for factor in factors))

    norm = rng.uniform(0.9, 1.1, CONFIG.hidden_size).astype(np.float32)
    layers = [layer() for _ in range(CONFIG.num_layers)]
    return tk.ModelWeights(CONFIG, table(rng, bits), table(rng, bits) if is_full else None, norm, layers)


def logits(weights: tk.ModelWeights) -> np.ndarray:
    tokens = np.arange(12, dtype=np.int32)
    starts, contexts = np.array([0, 12], np.int32), np.zeros(1, np.int32)
    decoder = tk.Decoder(weights, 1, num_threads=2)
    return decoder.forward(tokens, starts, contexts, np.zeros((1, 1), np.int32), tokens)


def kept(path: Path, weights: tk.ModelWeights) -> PackedFile:
    layout.write(path, facts_of(weights), sections_of(weights))
    return open_file(path)


@pytest.mark.parametrize(("format", "bits", "scales", "is_full"), KINDS)
def test_logits_from_the_file_are_those_from_memory(tmp_path, format, bits, scales, is_full):
    weights = model(format, bits, scales, is_full)
    file = kept(tmp_path / "model", weights)
    file.verify()
    again = weights_of(file)
    assert again.config == weights.config
    assert again.num_bytes == weights.num_bytes
    del file
    (tmp_path / "model").unlink()  # what is mapped stays
    np.testing.assert_array_equal(logits(again), logits(weights))


def test_what_is_large_lies_in_the_file_and_cannot_be_written(tmp_path):
    large = dataclasses.replace(CONFIG, vocab_size=12000)
    given = dataclasses.replace(
        model(), config=large, embedding=table(np.random.default_rng(0), 8, large), head=None
    )
    file = kept(tmp_path / "model", given)
    weights = weights_of(file)
    begin = file.array("embedding/data", "u1").ctypes.data
    assert weights.embedding.parts()[0].ctypes.data == begin
    assert weights.embedding.in_slab() is weights.embedding
    (mapping,) = (m for m in mappings(Path("/proc/self/smaps").read_text()) if m.begin <= begin < m.end)
    assert mapping.sizes["Rss"] < given.layers[0].q.num_bytes, "what was copied, or not read yet"
    for array in (*weights.embedding.parts(), *weights.layers[0].up_correction.parts(), weights.final_norm):
        assert not array.flags.writeable
        assert array.ctypes.data % layout.ALIGNMENT == 0
    for section in file.sections.values():
        assert section.offset % layout.ALIGNMENT == 0


@pytest.mark.parametrize("format", ["t2", "t5"])
def test_small_matrices_are_copies_side_by_side(tmp_path, format):
    given = model(format)
    weights = weights_of(kept(tmp_path / "model", given))
    ends = []
    for part in MATRICES:
        own, its = getattr(weights.layers[1], part).parts(), getattr(given.layers[1], part).parts()
        for ours, theirs in zip(own, its, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.flags.writeable
            assert ours.ctypes.data % layout.ALIGNMENT == 0
        assert all(own[0].ctypes.data - end in range(layout.ALIGNMENT) for end in ends[-1:])
        ends.append(own[2].ctypes.data + own[2].nbytes)


def test_the_share_in_large_pages_is_that_of_the_system():
    weights = model()
    before = large_page_share(weights)
    assert before is not None
    assert 0 <= before <= 1
    large = "7f0000000000-7f0000400000 rw-p 0 00:00 0\nRss: 4096 kB\nAnonHugePages: 2048 kB\nVmFlags: rd hg\n"
    small = "7f0000400000-7f0000401000 r--s 0 00:00 7 /a file\nRss: 0 kB\nAnonHugePages: 0 kB\n"
    assert [(m.begin, m.end, m.large_share) for m in mappings(large + small)] == [
        (0x7F0000000000, 0x7F0000400000, 0.5),
        (0x7F0000400000, 0x7F0000401000, 0.0),
    ]


def test_a_copy_needs_nothing_of_what_it_was_made_of():
    matrix = ternary(np.random.default_rng(0), (32, 64), "group32", "t2")
    arrays = list(matrix.parts())
    gone = [weakref.ref(array) for array in arrays]
    copied = tk.Matrix.from_parts(*arrays, 32, 64, 32, "t2").in_slab()
    del arrays
    assert [ref() for ref in gone] == [None, None, None]
    np.testing.assert_array_equal(copied.unpack()[0], matrix.unpack()[0])
    np.testing.assert_array_equal(copied.unpack()[1], matrix.unpack()[1])


def damaged(data: bytes) -> dict[str, bytes]:
    """Cut short at many places, one bit of each 37th byte before the sections turned, and other files."""
    end = 64 + int.from_bytes(data[16:24], "little")
    cuts = {f"cut at {size}": data[:size] for size in (0, 1, 63, 64, 65, end - 1, end, len(data) - 1)}
    places = [*range(64), *range(64, end, 37)]
    flips = {f"bit of {i}": data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in places}
    others = {"longer": data + b"\0", "zeros": bytes(len(data)), "gguf": b"GGUF" + data[4:]}
    return cuts | flips | others


def is_refused(path: Path) -> bool:
    try:
        weights_of(open_file(path))
    except PackedFileError:
        return True
    return False


def test_every_damage_before_the_sections_is_seen(tmp_path):
    path = tmp_path / "model"
    kept(path, model(is_full=False))
    cases = damaged(path.read_bytes())
    assert len(cases) > 100
    for what, data in cases.items():
        path.write_bytes(data)
        assert is_refused(path), what


def test_a_damaged_section_is_seen_by_who_verifies(tmp_path):
    path = tmp_path / "model"
    section = kept(path, model(is_full=False)).sections["1.down/data"]
    data = bytearray(path.read_bytes())
    data[section.offset + section.num_bytes // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackedFileError, match=r"section 1\.down/data is not what was written"):
        open_file(path).verify()


def changed(facts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Facts with other values, by a path of keys."""
    facts = json.loads(json.dumps(facts))
    for key, value in changes.items():
        *way, last = key.split("__")
        place = facts
        for name in way:
            place = place[name]
        place[last] = value
        if value is None:
            del place[last]
    return facts


CRAFTED = {
    "no config": {"config": None},
    "config of a list": {"config": []},
    "no layers": {"config__num_layers": 0},
    "more layers": {"config__num_layers": 10**9},
    "other width": {"config__hidden_size": 2**40},
    "text for a number": {"config__vocab_size": "50"},
    "unknown setting": {"config__moe": 8},
    "rope that is none": {"config__ropes": [[["x"], 1.0]]},
    "rope beyond": {"config__attention": [[7, None], [None, None]]},
    "unknown part": {"parts__2.q": ["t2", 1, 1, 0, False]},
    "huge matrix": {"parts__embedding": ["q8", 2**62, 2**62, 16, False]},
    "negative group": {"parts__0.q": ["t2", 192, 192, -16, False]},
    "other group": {"parts__0.q": ["t2", 192, 192, 16, False]},
    "other format": {"parts__0.q": ["q8", 192, 192, 32, False]},
    "no such format": {"parts__0.q": ["t9", 192, 192, 32, False]},
    "minimums of ternary codes": {"parts__0.q": ["t2", 192, 192, 32, True]},
    "minimums that are no flag": {"parts__0.q": ["q4", 192, 192, 32, "yes"]},
    "too few sizes": {"parts__0.q": ["t2"]},
    "no norm": {"parts__0.input_norm": None},
    "no matrix": {"parts__1.down": None},
    "wrong rank": {"parts__0.q_correction": [192, 192, 4]},
    "huge rank": {"parts__0.q_correction": [192, 192, 2**62]},
}


@pytest.mark.parametrize("changes", CRAFTED.values(), ids=CRAFTED)
def test_a_header_made_on_purpose_is_refused_before_anything_is_computed(tmp_path, changes):
    weights = model()
    layout.write(tmp_path / "model", changed(facts_of(weights), **changes), sections_of(weights))
    with pytest.raises(PackedFileError):
        weights_of(open_file(tmp_path / "model"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"facts":{},"sections":[["a",-1,"0"]]}',
        b'{"facts":{},"sections":[["a",1e3,"0"]]}',
        b'{"facts":{},"sections":[["a",99999999999999999999,"0"]]}',
        b'{"facts":{},"sections":[["a",1,"0"],["a",1,"0"]]}',
        b'{"facts":[],"sections":[]}',
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_a_header_that_is_no_list_of_sections_is_refused(tmp_path, text):
    preamble = layout._PREAMBLE.pack(layout.MAGIC, layout.VERSION, 0, len(text), 64 + len(text))
    digest = layout.hashlib.sha256(preamble + text).digest()
    (tmp_path / "model").write_bytes(preamble + digest + text)
    with pytest.raises(PackedFileError):
        open_file(tmp_path / "model")


def test_the_preamble_is_the_documented_one(tmp_path):
    data = kept(tmp_path / "model", model()).path.read_bytes()
    assert data[:16] == b"WFPACKED\x02\0\0\0\0\0\0\0"
    assert int.from_bytes(data[24:32], "little") == len(data)
    header = json.loads(data[64 : 64 + int.from_bytes(data[16:24], "little")])
    assert [section[:2] for section in header["sections"]][:3] == [
        ["embedding/data", 12288],
        ["embedding/row_scales", 256],
        ["embedding/group_scales", 1536],
    ]
    assert set(header["facts"]["config"]) - {"ropes"} == {
        field.name for field in dataclasses.fields(tk.DecoderConfig)
    }
