"""benchmarks/formats.py: each model is scored and timed by the engine that serves it, once."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_handler.readers import read_documents
from wrinklefree_eval.opening import open_model
from wrinklefree_eval.perplexity import measure

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "formats.py"


@pytest.fixture
def formats(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, in this process; `run_on(*arguments)` is its command line, which writes to `tmp_path`."""
    spec = importlib.util.spec_from_file_location("formats_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)

    def run_on(*arguments: str) -> None:
        sizes = ["--context", "32", "--prompt-tokens", "16", "--generate-tokens", "4", "--repeats", "1"]
        places = ["--text", str(text_file), "--output", str(tmp_path)]
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments, *sizes, *places])
        script.main()

    script.run_on = run_on
    return script


@pytest.mark.slow
def test_two_formats_in_turns(
    formats: ModuleType, small_gguf: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    """A ternary folder runs in the native engine alone, a GGUF file of float32 in llama.cpp alone."""
    formats.run_on(f"ours/ternary={small_checkpoint}", f"full={small_gguf}")
    ternary, original = json.loads((tmp_path / "formats.json").read_text())["models"]
    assert "error" in ternary["engines"]["llamacpp"]
    assert "error" in original["engines"]["native"]
    for found in (ternary["engines"]["native"], original["engines"]["llamacpp"]):
        assert found["prompt"]["tokens_per_s"] > 0
        assert found["generate"]["tokens_per_s"] > 0
        assert found["memory_bytes"]["rss"] > 1e7


def test_quality_table_and_picture(
    formats: ModuleType,
    small_gguf: Path,
    small_checkpoint: Path,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each model is scored by the engine that was timed; what is kept is not scored anew."""
    ran = {"prompt": {"tokens_per_s": 20.0}, "generate": {"tokens_per_s": 10.0}, "memory_bytes": {"rss": 3e6}}
    refused = {"error": "not this one"}

    def time_engines(models: Sequence[Any], *_options: Any) -> None:
        models[0].engines = {"native": ran, "llamacpp": refused}
        models[1].engines = {"native": refused, "llamacpp": ran}

    monkeypatch.setattr(formats, "time_engines", time_engines)
    formats.run_on(f"ours/ternary={small_checkpoint}", f"full={small_gguf}")
    ternary, original = json.loads((tmp_path / "formats.json").read_text())["models"]
    assert [ternary["family"], original["family"]] == ["ours", "full"]
    assert original["megabytes"] == small_gguf.stat().st_size / 1e6
    assert (tmp_path / "formats.png").read_bytes()[:4] == b"\x89PNG"
    first, second = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[-2:]]
    assert (first[0], first[2:4], first[6:8]) == ("| ternary", ["3", "native"], ["20", "10"])
    assert (second[0], second[2:4], second[8:]) == ("| full", ["3", "llamacpp"], ["-", "- |"])

    model = open_model(small_checkpoint, 32, num_threads=1)  # PyTorch, its head in float32
    expected = measure(model, read_documents(text_file), "text")
    model.close()
    assert ternary["quality"]["perplexity"]["nll"] == pytest.approx(expected.nll, rel=0.02)

    kept = tmp_path / "full.json"
    marked = json.loads(kept.read_text())
    marked["perplexity"]["perplexity"] = 7.0
    kept.write_text(json.dumps(marked))
    again = formats.Format("full", small_gguf, "full", {"llamacpp": {}})
    formats.score(again, formats.arguments())
    assert again.quality["perplexity"]["perplexity"] == 7.0


def test_labels_do_not_meet(formats: ModuleType) -> None:
    assert formats.apart([3.0, 1.0, 1.25, 1.5], 1.0) == [4.0, 1.0, 2.0, 3.0]


def test_models_need_labels_of_their_own(formats: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"a model is \[FAMILY/\]LABEL=PATH, got 'model.gguf'"):
        formats.run_on("model.gguf")
    with pytest.raises(SystemExit, match="two models have one label: a, a"):
        formats.run_on("a=one.gguf", "b/a=two.gguf")
