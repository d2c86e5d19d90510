"""Files that guess and are guessed for: text as without, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from wf_formats.errors import RequestError
from wrinklefree_inference.engines.base import Sampling
from wrinklefree_inference.engines.native import NativeEngine
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import CacheOptions, NativeOptions, Speculate

OPTIONS = {"context_tokens": 512, "num_threads": 1}


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """Code, whose answers go on as prompts do, and prose."""
    found = []
    for name in ("code_python_stdlib", "openstax"):
        path = shared_data / "pretrain" / name / "validation.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found.append(json.loads(next(lines))["text"][:600])
    return found


def answers(model: Path, texts: list[str], **options):
    """Of one engine to all texts, greedy and sampled; and its counters."""
    ways = Sampling(temperature=0, max_tokens=40), Sampling(temperature=0.8, seed=1, max_tokens=40)
    with NativeEngine(model, NativeOptions(**OPTIONS, **options), CacheOptions(tokens=1024)) as engine:
        told = ["".join(engine.complete(text, way)) for text in texts for way in ways]
        return told, engine._worker.stats()


@pytest.fixture(scope="module")
def plain(ternary_gguf, texts):
    told, stats = answers(ternary_gguf, texts, speculate=Speculate.OFF)
    assert stats.guessed_tokens_total == 0
    return told


def test_prompt_lookup_is_the_default_and_changes_no_text(ternary_gguf, texts, plain):
    told, stats = answers(ternary_gguf, texts)
    assert told == plain
    assert 0 < stats.accepted_tokens_total <= stats.guessed_tokens_total
    assert stats.steps_total < stats.generated_tokens_total


def test_a_draft_model_changes_no_text(ternary_gguf, other_ternary_gguf, texts, plain):
    told, stats = answers(ternary_gguf, texts, draft_model=other_ternary_gguf)
    assert told == plain
    assert stats.guessed_tokens_total > 0
    assert stats.accepted_tokens_total < stats.guessed_tokens_total


def test_a_draft_model_of_other_tokens_is_refused_by_name(ternary_gguf, tmp_path):
    other = tmp_path / "other.gguf"
    data = ternary_gguf.read_bytes()
    assert data.count(b"<filename>") == 1
    other.write_bytes(data.replace(b"<filename>", b"<filenamf>"))
    with refused_as_draft(other, r"it has other tokens.*'<filenamf>' there and b'<filename>'"):
        NativeEngine(ternary_gguf, NativeOptions(**OPTIONS, draft_model=other))


def refused_as_draft(path, words):
    """The draft model is at fault, and its option is named."""
    return pytest.raises(EngineError, match=f"^--draft-model {re.escape(str(path))} cannot guess .*: {words}")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "there is no such file"),
        (b"", "it is empty$"),
        (b"GGUF" + 60 * b"\xff", "GGUF version"),
        (0.5, ""),
    ],
)
def test_a_draft_model_that_is_missing_or_damaged_is_named(ternary_gguf, tmp_path, contents, words):
    path = tmp_path / "draft.gguf"
    if isinstance(contents, float):
        data = ternary_gguf.read_bytes()
        contents = data[: int(len(data) * contents)]
    if contents is not None:
        path.write_bytes(contents)
    with refused_as_draft(path, words) as refusal:
        NativeEngine(ternary_gguf, NativeOptions(**OPTIONS, draft_model=path))
    assert str(ternary_gguf) not in str(refusal.value)
    assert "llama" not in str(refusal.value), "what else could run the model does not mend the draft model"


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(RequestError, match="give it with --draft-model FILE"):
        NativeOptions(speculate=Speculate.DRAFT)
    for other in (Speculate.OFF, Speculate.NGRAM):
        with pytest.raises(RequestError, match=f"d.gguf guesses nothing with --speculate {other.value}"):
            NativeOptions(speculate=other, draft_model=Path("d.gguf"))
    assert NativeOptions().guesses_by is Speculate.NGRAM
    assert NativeOptions(draft_model=Path("d.gguf")).guesses_by is Speculate.DRAFT
