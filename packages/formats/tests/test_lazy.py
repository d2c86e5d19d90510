"""Names that are imported on first use."""

import sys

import pytest

from wf_formats.lazy import lazy_names


def test_a_name_comes_from_its_home(tmp_path, monkeypatch):
    package = tmp_path / "late"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from wf_formats.lazy import lazy_names\n__getattr__ = lazy_names(__name__, {'answer': 'home'})\n"
    )
    (package / "home.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    import late

    assert "late.home" not in sys.modules
    assert late.answer == 42
    assert "late.home" in sys.modules


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'late' has no attribute 'question'"):
        lazy_names("late", {"answer": "home"})("question")
