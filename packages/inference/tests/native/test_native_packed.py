"""Packed models are kept for the command line; answers are those of a model packed anew."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import ternary_kernels as tk
from ternary_kernels import Decoder, screen
from ternary_kernels.packed import cache
from wf_formats import content_records
from wrinklefree_inference.engines.base import Sampling
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import EngineOptions, Head, NativeOptions, TernaryFormat

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache; files of tests are young."""
    monkeypatch.setenv("WRINKLEFREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WF_PACKED_CACHE")
    monkeypatch.setattr(content_records, "GRAIN_S", -60.0)
    return tmp_path / "cache" / "packed"


def answer(model: Path, options: EngineOptions) -> tuple[str, int]:
    with NativeEngine(model, options) as engine:
        stream = engine.chat(MESSAGES, Sampling(max_tokens=8, temperature=0.0))
        return stream.text(), stream.usage.prompt_tokens


def test_answers_from_a_kept_model_are_the_same(ternary_gguf, folder, monkeypatch):
    expected = answer(ternary_gguf, EngineOptions(64, 1))
    assert not folder.exists()
    assert answer(ternary_gguf, NativeOptions(64, 1, packs_afresh=True)) == expected
    assert not folder.exists()
    assert answer(ternary_gguf, NativeOptions(64, 1)) == expected
    assert len(list(folder.glob("*.wfpacked"))) == 1
    for name in ("open_model", "read_tokenizer", "ChatTemplate"):
        monkeypatch.setattr(cache, name, None)
    assert answer(ternary_gguf, NativeOptions(64, 1)) == expected


def test_the_head_is_screened_unless_it_is_to_compute_in_full(ternary_gguf, folder, monkeypatch):
    monkeypatch.setattr(screen, "MIN_WEIGHTS", 1)
    answers, has_screen = [], []

    def decoder(weights, *options):
        has_screen.append(weights.screen is not None)
        return Decoder(weights, *options)

    for options in (NativeOptions(64, 1, head=Head.FULL), NativeOptions(64, 1), EngineOptions(64, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(tk, "Decoder", decoder)
            answers.append(answer(ternary_gguf, options))
    assert has_screen == [False, True, False]
    assert answers[0] == answers[1] == answers[2]


def test_what_is_refused_is_not_kept(folder, tmp_path, ternary_gguf):
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(ternary_gguf.read_bytes()[:-1000])
    with pytest.raises(EngineError, match=r"cut\.gguf: the file ends inside tensor"):
        NativeEngine(damaged, NativeOptions(64, 1))
    assert not folder.exists()


def test_without_a_home_it_is_said_and_the_model_runs(ternary_gguf, folder, monkeypatch, caplog):
    monkeypatch.delenv("WRINKLEFREE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with caplog.at_level(logging.WARNING), NativeEngine(ternary_gguf, NativeOptions(64, 1)) as engine:
        assert engine.facts.context_tokens == 64
    assert "packed models are not kept: this user has no home folder" in caplog.text


def test_a_wrong_variable_is_a_wrong_request(ternary_gguf, folder, monkeypatch):
    monkeypatch.setenv("WF_PACKED_CACHE", "off")
    with pytest.raises(ValueError, match=r"\$WF_PACKED_CACHE is 'off': set it to 0"):
        NativeEngine(ternary_gguf, NativeOptions(64, 1))


@pytest.mark.parametrize("format", [TernaryFormat.T2, TernaryFormat.T5])
def test_the_format_is_what_was_asked_for(ternary_gguf, folder, format):
    for options in (NativeOptions(64, 1, format=format), NativeOptions(64, 1, format=format)):
        with NativeEngine(ternary_gguf, options) as engine:
            assert engine.facts.weight_type == format
