from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from data_handler import DataError, SourceConfig, iter_documents
from data_handler.sources import packaged
from data_handler.sources.opening import open_source


@cache
def documents(name: str, split: str = "all") -> list[str]:
    """Read once: the standard library has 5 MB."""
    return list(iter_documents(SourceConfig("packaged", name, split=split)))


def test_both_texts() -> None:
    docs, stdlib = documents("python_docs"), documents("python_stdlib")
    assert len(docs) > 50
    assert sum(map(len, docs)) > 400_000
    assert any('The "if" statement' in text for text in docs)
    assert len(stdlib) > 400
    assert sum(map(len, stdlib)) > 5_000_000
    assert ast.get_docstring(ast.parse(next(t for t in stdlib if "class JSONDecoder(" in t)))
    assert documents("python") == docs + stdlib


def test_conversations() -> None:
    """In ChatML, none twice, enough of them to calibrate on."""
    conversations = documents("chat")
    assert sum(map(len, conversations)) > 400_000
    assert len(set(conversations)) == len(conversations)
    assert all(text.startswith("<|im_start|>") for text in conversations)
    assert all("<|im_start|>user\n" in text for text in conversations)
    answered = [text for text in conversations if "<|im_end|>\n<|im_start|>assistant\n" in text]
    assert len(answered) > 0.9 * len(conversations)


def test_location_chooses_where_the_name_is_free() -> None:
    both = SourceConfig("packaged", "any", ["python_stdlib", "python_docs"], split="validation")
    expected = documents("python_stdlib", "validation") + documents("python_docs", "validation")
    assert list(iter_documents(both)) == expected


def test_train_and_validation_never_meet() -> None:
    train, validation = documents("python", "train"), documents("python", "validation")
    assert sorted(train + validation) == sorted(documents("python"))
    assert 0.05 < len(validation) / len(train) < 0.2
    with pytest.raises(DataError, match="split is 'test'; a packaged text has"):
        documents("python", "test")


def test_a_damaged_standard_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_bytes(b"x = '\xff'")
    monkeypatch.setattr(packaged, "_stdlib_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"broken\.py: cannot be read .*reinstall this Python"):
        list(iter_documents(SourceConfig("packaged", "python_stdlib")))


def test_identity_tells_python_versions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SourceConfig("packaged", "python_docs")
    before = open_source(source).digest()
    monkeypatch.setattr(packaged, "_topics", lambda: {"if": "another text"})
    assert open_source(source).digest() != before
