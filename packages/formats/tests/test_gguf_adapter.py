"""LoRA adapters beside a GGUF model: their factors in the model's row order, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import finish

from wf_formats.errors import LoadError
from wf_formats.models import open_model
from wf_formats.models.gguf_adapter import INVOCATION_KEY, RANK_KEY, SOURCE_KEY, AdapterError

SIZE, HEADS, RANK = 64, 2, 4
STEMS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
RANDOM = np.random.default_rng(0)
UP, DOWN = RANDOM.standard_normal((SIZE, RANK)), RANDOM.standard_normal((RANK, SIZE))
Q, DOWN_PROJ = "blk.0.attn_q.weight", "blk.0.ffn_down.weight"


def write(path: Path, keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    writer = gguf.GGUFWriter(path, keys.get("general.architecture", "llama"))
    for name, value in keys.items():
        if name != "general.architecture" and value is not None:
            is_count = isinstance(value, int)
            kind = gguf.GGUFValueType.UINT32 if is_count else gguf.GGUFValueType.get_type(value)
            writer.add_key_value(name, value, kind)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    finish(writer)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a ternary model of one layer in arch llama, whose q and k rows are in another order."""

    def make(**keys: Any) -> Path:
        sizes: dict[str, Any] = {
            "context_length": 64,
            "embedding_length": SIZE,
            "block_count": 1,
            "feed_forward_length": SIZE,
        }
        sizes["attention.head_count"] = HEADS
        tensors = {"token_embd.weight": np.ones((40, SIZE), np.float16)}
        for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
            tensors[f"{name}.weight"] = np.ones(SIZE, np.float32)
        for stem in STEMS:
            tensors[f"blk.0.{stem}.weight"] = np.full((SIZE, SIZE), 0.5, np.float16)
        numbers: dict[str, Any] = {f"llama.{name}": value for name, value in sizes.items()}
        numbers["llama.attention.layer_norm_rms_epsilon"] = 1e-5
        return write(tmp_path / "model.gguf", numbers | keys, tensors)

    return make


GOOD_KEYS = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}
GOOD_TENSORS = {
    f"{Q}.lora_a": DOWN.astype(np.float32),
    f"{Q}.lora_b": UP.astype(np.float32),
    f"{DOWN_PROJ}.lora_a": DOWN.astype(np.float16),
    f"{DOWN_PROJ}.lora_b": UP.astype(np.float16),
}


def test_factors_are_scaled_and_in_order(model: Any, tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter.gguf", GOOD_KEYS, GOOD_TENSORS)
    opened = open_model(model(), adapter=adapter)
    found = opened.correction(0, "q")
    assert found is not None
    # Rows 2 i and 2 i + 1 of a head in the file are i and i + half of it.
    half = SIZE // HEADS // 2
    for head in range(HEADS):
        for row in range(half):
            begin = head * 2 * half
            for place in (0, 1):
                expected = 2 * UP[begin + 2 * row + place].astype(np.float32)  # alpha 8 of rank 4
                np.testing.assert_array_equal(found.up[begin + place * half + row], expected)
    np.testing.assert_array_equal(found.down, DOWN.astype(np.float32))
    down = opened.correction(0, "down")
    assert down is not None
    np.testing.assert_array_equal(down.up, 2 * UP.astype(np.float16).astype(np.float32))
    assert opened.correction(0, "v") is None
    without_alpha = write(tmp_path / "plain.gguf", GOOD_KEYS | {"adapter.lora.alpha": None}, GOOD_TENSORS)
    plain = open_model(model(), adapter=without_alpha).correction(0, "down")
    assert plain is not None
    np.testing.assert_array_equal(plain.up, UP.astype(np.float16).astype(np.float32))


REFUSED: list[tuple[dict[str, Any], dict[str, np.ndarray | None], str]] = [
    ({"general.type": "model"}, {}, "general.type is 'model', not 'adapter'"),
    ({"general.architecture": "qwen2"}, {}, "general.architecture is 'qwen2', expected 'llama'"),
    ({"adapter.type": "dora"}, {}, "adapter.type is 'dora', expected 'lora'"),
    ({"adapter.lora.alpha": float("nan")}, {}, "adapter.lora.alpha is nan, not a number"),
    ({INVOCATION_KEY: "x"}, {}, "invocation_tokens is 'x', expected None"),
    ({}, {f"{Q}.lora_a": None}, rf"tensor {Q}\.lora_a is missing"),
    ({}, {f"{Q}.lora_b": np.ones((SIZE, 3), np.float32)}, r"shape \[64, 3\], expected \[64, 4\]"),
    ({}, {f"{Q}.lora_a": np.ones((RANK, 32), np.float32)}, r"shape \[4, 32\], expected \[4, 64\]"),
    (
        {},
        {"token_embd.weight.lora_a": np.ones((4, 4), np.float32)},
        "tensor token_embd.weight.lora_a changes",
    ),
    ({}, {"blk.0.attn_norm.weight": np.ones(SIZE, np.float32)}, "tensor blk.0.attn_norm.weight changes what"),
    ({SOURCE_KEY: "other"}, {}, "it was exported from another checkpoint"),
]


@pytest.mark.parametrize(("keys", "tensors", "message"), REFUSED)
def test_what_is_not_the_models_adapter(
    model: Any, tmp_path: Path, keys: dict[str, Any], tensors: dict[str, np.ndarray | None], message: str
) -> None:
    changed = {name: values for name, values in (GOOD_TENSORS | tensors).items() if values is not None}
    adapter = write(tmp_path / "adapter.gguf", GOOD_KEYS | keys, changed)
    with pytest.raises(AdapterError, match=message) as error:
        open_model(model(**{SOURCE_KEY: "mine"}), adapter=adapter)
    assert f"adapter {adapter}: " in str(error.value)


def test_corrections_of_a_model_are_not_forgotten(model: Any, tmp_path: Path) -> None:
    path = model(**{RANK_KEY: 4})
    with pytest.raises(AdapterError, match=r"corrections \(rank 4\) .* --adapter FILE"):
        open_model(path)
    with pytest.raises(LoadError, match="it was not exported beside"):
        open_model(path, adapter=write(tmp_path / "foreign.gguf", GOOD_KEYS, GOOD_TENSORS))


def test_a_folder_takes_none(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"adapter .* belongs to a GGUF file"):
        open_model(tmp_path, adapter=tmp_path / "adapter.gguf")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="it holds an adapter, no model"):
        open_model(write(tmp_path / "adapter.gguf", GOOD_KEYS, GOOD_TENSORS))
