from __future__ import annotations

import os
from pathlib import Path

import pytest

from wf_formats import content
from wf_formats.content import file_digest, folder_digest

SIZE_BYTES = 5 << 20


@pytest.fixture
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "WHOLE_BYTES", 4 << 20)


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.usefixtures("_small_limit")
@pytest.mark.parametrize("size_bytes", [0, 1, 100, SIZE_BYTES])
def test_copies_and_other_times_are_the_same(tmp_path: Path, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    first, second = _file(tmp_path / "a", data), _file(tmp_path / "b", data)
    os.utime(second, (1, 1))
    assert file_digest(first) == file_digest(second)


@pytest.mark.usefixtures("_small_limit")
@pytest.mark.parametrize("size_bytes", [1, 100, SIZE_BYTES])
def test_other_content_is_another(tmp_path: Path, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    other = bytes(byte ^ 1 for byte in data)
    contents = [data, other, data + b"\n", data[:-1], bytes([data[0] ^ 1]) + data[1:], data[:-1] + b"?"]
    digests = {file_digest(_file(tmp_path / "a", each)) for each in {*contents}}
    assert len(digests) == len({*contents})


def test_a_folder_is_its_models_files(tmp_path: Path) -> None:
    weights = _file(tmp_path / "model.safetensors", b"1")
    _file(tmp_path / "config.json", b"{}")
    before = folder_digest(tmp_path)
    _file(tmp_path / "README.md", b"notes")
    _file(tmp_path / ".cache.json", b"")
    (tmp_path / "more").mkdir()
    assert folder_digest(tmp_path) == before
    weights.write_bytes(b"2")
    assert folder_digest(tmp_path) != before
