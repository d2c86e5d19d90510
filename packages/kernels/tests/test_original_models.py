"""Layers that are not ternary: codes of 4 to 8 bits as a GGUF file has them, inputs rounded by groups."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

import ternary_kernels as tk
from ternary_kernels.loading import load_model
from ternary_kernels.packed import load_packed
from ternary_kernels.packed.settings import CacheSettings
from wf_formats import content_records
from wf_formats.families.block import MATRICES
from wf_formats.gguf import TensorType
from wf_formats.models import gguf_model

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "random_model.py"
NUM_TEXTS, TEXT_TOKENS = 4, 48


def _q5_k(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    steps = rng.uniform(0.5, 1, (blocks, 2)) * scale / (400, 200)  # of codes, of offsets
    return [steps.astype(np.float16).view(np.uint8), rng.integers(0, 256, (blocks, 172), np.uint8)]


def _ternary_in_q4_1(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    """Steps 0 to 2 of a half, less one of these."""
    step = np.full((blocks, 1), scale, np.float16)
    codes = rng.integers(0, 3, (blocks, 2, 16), np.uint8)
    return [step.view(np.uint8), (-step).view(np.uint8), codes[:, 0] | codes[:, 1] << 4]


def _ones_in_q6_k(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    """Codes of 1, a scale of its own for each group of 16."""
    low, high = np.full((blocks, 128), 0x11, np.uint8), np.full((blocks, 64), 0xAA, np.uint8)
    scales = np.broadcast_to(np.arange(1, 17, dtype=np.uint8), (blocks, 16))
    return [low, high, scales, np.full((blocks, 1), scale / 16, np.float16).view(np.uint8)]


@pytest.fixture(scope="module")
def script(module_of: Callable[[Path], Any]) -> Any:
    return module_of(SCRIPT)


@pytest.fixture
def mixed_file(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model whose matrices are of one type each, as llama.cpp's quantizer mixes them and more."""
    types = {
        "attn_q": script.MATRIX_TYPES["q4_0-dense"],
        "attn_k": script.EMBEDDING_TYPES["q6_k"],
        "attn_v": script.MATRIX_TYPES["tq2_0"],
        "attn_output": script.MATRIX_TYPES["q4_1"],
        "ffn_gate": script.FilledType(TensorType.Q5_K, _q5_k),
        "ffn_up": script.MATRIX_TYPES["q4_0"],
        "ffn_down": script.MATRIX_TYPES["q8_0"],
    }
    return _written(script, monkeypatch, tmp_path / "mixed.gguf", types)


def _written(script: Any, monkeypatch: pytest.MonkeyPatch, path: Path, types: dict[str, Any]) -> Path:
    """A small model, some of whose matrices are of other types."""
    plain = script.tensors
    monkeypatch.setattr(
        script,
        "tensors",
        lambda *shape: [
            replace(tensor, filled=types.get(tensor.name.split(".")[-2], tensor.filled))
            for tensor in plain(*shape)
        ],
    )
    script.write_model(path, "random", "q8_0")
    return path


@pytest.mark.parametrize("format", ["t2", "t5"])
def test_what_is_ternary_in_groups_of_16_keeps_its_codes(
    format: Any, script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ternary formats have groups of 32 and more."""
    types = {"attn_k": script.FilledType(TensorType.Q6_K, _ones_in_q6_k)}
    path = _written(script, monkeypatch, tmp_path / "ones.gguf", types)
    matrix = load_model(path, format=format).layers[0].k
    assert (matrix.format, matrix.group_size) == ("q6", 16)
    scales = values_of(matrix)[0, ::16] / values_of(matrix)[0, 0]
    np.testing.assert_allclose(scales[:16], np.arange(1, 17), rtol=2e-3)


def values_of(matrix: tk.Matrix) -> np.ndarray:
    """float64 [rows, cols]."""
    codes, scales = matrix.unpack()
    by_group = scales.reshape(matrix.rows, -1, 1).astype(np.float64)
    values = codes.reshape(*by_group.shape[:2], -1) * by_group
    if (offsets := matrix.offsets()) is not None:
        values += offsets[..., None]
    return values.reshape(matrix.rows, matrix.cols)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes that were decoded from now on, by the name of their type."""
    found = Counter[str]()

    def counted(decode: Callable[..., Any], data: np.ndarray, kind: TensorType, *rest: Any) -> Any:
        found[kind.name] += data.size
        return decode(data, kind, *rest)

    for name in ("codes_and_scales", "values"):
        monkeypatch.setattr(gguf_model, name, partial(counted, getattr(gguf_model, name)))
    return found


def _stored(path: Path) -> Counter[str]:
    found = Counter[str]()
    for tensor in gguf.GGUFReader(path).tensors:
        found[tensor.tensor_type.name] += int(tensor.n_bytes)
    return found


def test_blocks_without_offsets_are_decoded_once(mixed_file: Path, decoded: Counter[str]):
    """Whether they turn out to be ternary or not."""
    layer = load_model(mixed_file, format="t2").layers[0]
    assert (layer.q.format, layer.up.format) == ("q4", "t2")  # both Q4_0 in the file
    for kind in ("Q4_0", "Q8_0", "TQ2_0"):
        assert decoded[kind] == _stored(mixed_file)[kind] > 0


def test_ternary_blocks_with_offsets_are_decoded_once(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: Counter[str]
):
    types = {"attn_k": script.FilledType(TensorType.Q4_1, _ternary_in_q4_1)}
    path = _written(script, monkeypatch, tmp_path / "ternary.gguf", types)
    layer = load_model(path, format="t2").layers[0]
    assert (layer.k.format, layer.q.format) == ("t2", "q8")
    assert set(np.unique(layer.k.unpack()[0])) == {-1, 0, 1}
    assert decoded["Q4_1"] == _stored(path)["Q4_1"] > 0


def test_layers_are_kept_as_the_file_has_them(mixed_file: Path):
    layer, reader = load_model(mixed_file).layers[1], gguf.GGUFReader(mixed_file)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    kept = {
        "q": ("attn_q", "q4", 32, 0),
        "k": ("attn_k", "q6", 16, 2.0**-11),
        "o": ("attn_output", "q4", 32, 0),
        "gate": ("ffn_gate", "q6", 32, 2.0**-10),
        "down": ("ffn_down", "q8", 32, 0),
        "v": ("attn_v", layer.v.format, 0, 0),
        "up": ("ffn_up", layer.v.format, 64, 0),
    }
    for part, (name, format, group, error) in kept.items():
        tensor, matrix = stored[f"blk.1.{name}.weight"], getattr(layer, part)
        assert (matrix.format, matrix.group_size) == (format, group), part
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(
            values_of(matrix), expected, rtol=0, atol=error * np.abs(expected).max(), err_msg=part
        )


def logits_of(weights: tk.ModelWeights, feeding: SimpleNamespace, kind: str) -> np.ndarray:
    texts = [np.arange(3, 40, dtype=np.int32), np.arange(300, 321, dtype=np.int32)]
    lengths = [len(text) for text in texts]
    table = feeding.page_table(lengths)
    decoder = tk.Decoder(weights, table.size + 1, num_threads=1)
    return np.concatenate(feeding.feed(decoder, texts, feeding.schedule(kind, lengths), table))


def test_a_mixed_model_gives_the_same_bits_however_tokens_arrive(mixed_file: Path, feeding: SimpleNamespace):
    weights = load_model(mixed_file)
    alone = logits_of(weights, feeding, "alone")
    for kind in ("batch", "steps", "chunks"):
        np.testing.assert_array_equal(logits_of(weights, feeding, kind), alone, err_msg=kind)


def test_what_rounds_inputs_is_chosen_by_each_matrix(script: Any, tmp_path: Path, feeding: SimpleNamespace):
    """A ternary matrix packed as one of 4 bits is the same matrix, whose inputs lose less."""
    script.write_model(tmp_path / "ternary.gguf", "random", "tq2_0")
    ternary = load_model(tmp_path / "ternary.gguf")

    def with_4_bits(*parts: str) -> tk.ModelWeights:
        def packed(layer: Any) -> Any:
            changes = {}
            for part in parts:
                codes, scales = getattr(layer, part).unpack()
                by_group = np.repeat(scales[:, None], codes.shape[1] // 32, axis=1)
                changes[part] = tk.pack_groups(codes, by_group, 4)
            return replace(layer, **changes)

        return replace(ternary, layers=[packed(layer) for layer in ternary.layers])

    def of(weights: tk.ModelWeights) -> np.ndarray:
        return logits_of(weights, feeding, "batch")

    exact = of(with_4_bits(*MATRICES))
    errors = {parts: np.abs(of(with_4_bits(*parts)) - exact).mean() for parts in ((), ("k",), ("o", "down"))}
    assert errors[("o", "down")] < 0.9 * errors[()]
    assert 0 < errors[("k",)] < 1.1 * errors[()] < 0.1 * exact.std()
    without_groups = replace(ternary.layers[0], q=tk._native.pack(*ternary.layers[0].q.unpack(), "q4"))
    with pytest.raises(ValueError, match="layer 0 q is q4 without groups"):
        tk.Decoder(replace(ternary, layers=[without_groups, ternary.layers[1]]), 1)


@pytest.fixture(scope="module")
def packaged(packaged_gguf: Path) -> tk.ModelWeights:
    return load_model(packaged_gguf)


@pytest.fixture(scope="module")
def reference(packaged_model_dir: Path, shared_data: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Texts of WikiText-2 and their log-probabilities by transformers, weights as values, inputs float32."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(packaged_model_dir, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_model_dir)
    file = shared_data / "pretrain" / "wikitext2_raw" / "test.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        texts = [
            tokenizer(json.loads(line)["text"]).input_ids[:TEXT_TOKENS]
            for _, line in zip(range(NUM_TEXTS), lines, strict=False)
        ]
    with torch.inference_mode():
        expected = [model(torch.tensor([text])).logits[0].log_softmax(-1).double().numpy() for text in texts]
    return [np.array(text, np.int32) for text in texts], expected


def test_the_packaged_model_answers_as_transformers_does(
    packaged: tk.ModelWeights, reference: Any, feeding: SimpleNamespace
):
    """Rounding inputs by groups of 32 costs a KL of 0.0023 nats a token; by tokens it would be 0.028."""
    assert {getattr(packaged.layers[0], part).format for part in MATRICES} == {"q4"}
    texts, expected = reference
    table = feeding.page_table([TEXT_TOKENS] * NUM_TEXTS)
    decoder = tk.Decoder(packaged, table.size + 1, num_threads=1)
    calls = feeding.schedule("batch", [TEXT_TOKENS] * NUM_TEXTS)
    found = [feeding.log_softmax(logits) for logits in feeding.feed(decoder, texts, calls, table)]
    divergences = [
        (np.exp(theirs) * (theirs - ours)).sum(axis=-1) for theirs, ours in zip(expected, found, strict=True)
    ]
    assert np.mean(divergences) < 0.006
    same = np.concatenate(
        [ours.argmax(-1) == theirs.argmax(-1) for ours, theirs in zip(found, expected, strict=True)]
    )
    assert same.mean() > 0.93


def test_a_kept_model_is_the_packed_one(
    mixed_file: Path, tmp_path: Path, monkeypatch, feeding: SimpleNamespace
):
    monkeypatch.setattr(content_records, "GRAIN_S", -60.0)  # files may be as young as a test's
    settings = CacheSettings(tmp_path / "cache", 1 << 30, is_verified=False)
    load_packed(mixed_file, settings=settings)
    kept = load_packed(mixed_file, settings=settings)
    assert kept.is_mapped
    fresh = load_model(mixed_file)
    for part in fields(fresh.layers[0]):
        if part.name in MATRICES:
            matrix, its = getattr(fresh.layers[0], part.name), getattr(kept.weights.layers[0], part.name)
            assert matrix.has_minimums == its.has_minimums
    np.testing.assert_array_equal(
        logits_of(kept.weights, feeding, "batch"), logits_of(fresh, feeding, "batch")
    )
