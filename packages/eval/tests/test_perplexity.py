"""The definition, checked with a fake model whose probabilities are known and with transformers' loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_handler.readers import read_documents
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.models import ModelKind
from wrinklefree_eval.opening import open_model
from wrinklefree_eval.perplexity import measure, windows
from wrinklefree_inference import TokenScores


class Halves:
    """Ids are UTF-8 bytes; every id has probability 1/2. Remembers what it was asked."""

    kind = ModelKind.HF

    def __init__(self, context_tokens: int = 8, prefix_ids: Sequence[int] = ()) -> None:
        self.context_tokens, self.prefix_ids = context_tokens, list(prefix_ids)
        self.asked: list[tuple[list[int], int]] = []

    def facts(self) -> dict[str, Any]:
        return {}

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def detokenize(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        assert 1 <= start < len(ids) <= self.context_tokens
        self.asked.append((list(ids), start))
        n = len(ids) - start
        return TokenScores(np.array(ids[start:]), np.full(n, math.log(0.5)), np.full(n, -1))

    def harness(self, batch_size: int) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_known_probabilities():
    found = measure(Halves(), ["abcdefghijklmnop", "", "xyz"], "fake")
    assert found.num_tokens == 15 + 2  # the first id of each document has nothing before it
    assert found.num_bytes == 15 + 2
    assert found.perplexity == pytest.approx(2.0)
    assert found.bits_per_byte == pytest.approx(1.0)
    assert found.nll_stderr == pytest.approx(0.0, abs=1e-12)


def test_a_prefix_makes_the_first_id_count():
    model = Halves(8, prefix_ids=[0])
    found = measure(model, ["abcdefghij"], "fake")
    assert found.num_tokens == found.num_bytes == 10
    assert model.asked[0] == ([0, *b"abcdefg"], 1)
    assert model.asked[1] == ([0, *b"ghij"], 2)


def test_windows_by_hand():
    assert list(windows(10, 4, 3)) == [(0, 4, 1), (3, 7, 4), (6, 10, 7)]
    assert list(windows(10, 4, 1))[:3] == [(0, 4, 1), (1, 5, 4), (2, 6, 5)]
    assert list(windows(3, 8, 7)) == [(0, 3, 1)]
    assert list(windows(1, 8, 7)) == []
    assert list(windows(0, 8, 7)) == []
    assert list(windows(1, 8, 6, 1)) == [(0, 1, 0)]


@given(st.integers(0, 200), st.integers(3, 40), st.integers(0, 2), st.integers(1, 40))
def test_every_id_is_scored_once_with_enough_context(
    num_tokens: int, width: int, num_prefix: int, stride: int
):
    context = width + num_prefix
    stride = min(stride, width - 1)
    scored: list[int] = []
    for begin, end, first in windows(num_tokens, context, stride, num_prefix):
        assert 0 <= begin <= first < end <= num_tokens
        assert end - begin + num_prefix <= context
        assert begin < first or num_prefix
        assert begin == 0 or first - begin >= width - stride
        scored.extend(range(first, end))
    assert scored == list(range(0 if num_prefix else 1, num_tokens))


@pytest.mark.parametrize("limit", [1, 5, 7, 14, 16, 40])
def test_max_tokens_is_exact_and_its_bytes_too(limit: int):
    found = measure(Halves(), ["abcdefghijklmnop", "xyz"], "fake", max_tokens=limit)
    assert found.num_tokens == found.num_bytes == min(limit, 17)


def test_what_cannot_be_measured():
    with pytest.raises(EvalError, match=r"stride must be in \[1, 7\] .* got 8"):
        measure(Halves(), ["abc"], "fake", stride_tokens=8)
    with pytest.raises(EvalError, match="no document of two or more tokens"):
        measure(Halves(), ["", "a"], "fake")


def test_equals_the_loss_of_transformers(small_hf: Path, text_file: Path):
    """One window: the loss with labels. Strided windows: the loss with the overlap masked out."""
    import torch

    model = open_model(small_hf, 512, num_threads=1)
    (text, _) = read_documents(text_file)
    ids = torch.tensor([model.tokenize(text)])
    with torch.no_grad():
        loss = model.model(ids, labels=ids).loss.item()  # type: ignore[attr-defined]
    found = measure(model, [text], "one")
    assert found.nll == pytest.approx(loss, rel=1e-5)
    assert found.num_tokens == ids.shape[1] - 1

    short = open_model(small_hf, 24)
    total, last = 0.0, 1
    for begin in range(0, ids.shape[1], 10):
        end = min(begin + 24, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : last - begin] = -100
        with torch.no_grad():
            mean = short.model(ids[:, begin:end], labels=labels).loss.item()  # type: ignore[attr-defined]
        total, last = total + mean * (end - last), end
        if end == ids.shape[1]:
            break
    found = measure(short, [text], "strided", stride_tokens=10)
    assert found.nll == pytest.approx(total / (ids.shape[1] - 1), rel=1e-5)


def test_gguf_and_folder_have_the_same_perplexity(small_gguf: Path, small_hf: Path, text_file: Path):
    results = [
        measure(open_model(path, 48, num_threads=1), read_documents(text_file), "text")
        for path in (small_gguf, small_hf)
    ]
    left, right = results
    assert (left.num_tokens, left.num_bytes) == (right.num_tokens, right.num_bytes)
    assert left.perplexity == pytest.approx(right.perplexity, rel=1e-3)
    assert left.bits_per_byte == pytest.approx(right.bits_per_byte, rel=1e-3)


@pytest.mark.slow
def test_the_whole_packaged_model(
    packaged_gguf: Path, packaged_model_dir: Path, shared_data: Path, f32_writer, tmp_path: Path
):
    """30 layers in fp32 on real text; and what Q4_1 with int8 activations costs beside it."""
    exact = tmp_path / "f32.gguf"
    f32_writer(packaged_gguf, exact, 30)
    documents = list(read_documents(shared_data / "pretrain/wikitext2_raw/test.jsonl.gz"))
    folder = measure(open_model(packaged_model_dir, 512), documents, "folder", max_tokens=2000)
    f32 = measure(open_model(exact, 512), documents, "f32", max_tokens=2000)
    assert f32.perplexity == pytest.approx(folder.perplexity, rel=5e-4)
    quantized = measure(open_model(packaged_gguf, 512), documents, "Q4_1", max_tokens=2000)
    assert quantized.perplexity == pytest.approx(folder.perplexity, rel=0.02)
