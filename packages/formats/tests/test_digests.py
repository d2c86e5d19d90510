"""A model's digest names its weights; a card is ours by the record in its front matter."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wf_formats.digests import file_sha256, model_sha256
from wf_formats.errors import LoadError
from wf_formats.model_card import MAX_CARD_BYTES, is_own_card


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"x" * 3_000_000)
    assert file_sha256(path) == model_sha256(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_a_folder_is_named_by_its_configuration_and_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    digest = model_sha256(tmp_path)
    data = b"{}" + (tmp_path / "model.safetensors").read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    for name in ("README.md", "wrinklefree.json", "tokenizer.json"):
        (tmp_path / name).write_text("whatever")
    assert model_sha256(tmp_path) == digest
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    assert model_sha256(tmp_path) != digest


def test_a_folder_without_weights_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadError):
        model_sha256(tmp_path)


@pytest.mark.parametrize(
    ("text", "is_own"),
    [
        ("---\nlicense: mit\nwrinklefree:\n  name: x\n---\n# X\n", True),
        ("---\r\nwrinklefree:\r\n---\r\n", True),
        ("---\nlicense: mit\n---\nwrinklefree: x\n", False),
        ("---\nwrinklefree:\n", False),
        ("# X\n---\nwrinklefree:\n---\n", False),
        ("---\n  wrinklefree:\n---\n", False),
        ("", False),
        ("---\nwrinklefree:\n---\n" + "x" * MAX_CARD_BYTES, False),
    ],
)
def test_a_card_of_ours_is_told_by_its_record(tmp_path: Path, text: str, is_own: bool) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(text.encode())
    assert is_own_card(path) is is_own


def test_no_card_is_none_of_ours(tmp_path: Path) -> None:
    assert not is_own_card(tmp_path / "README.md")
    assert not is_own_card(tmp_path)
