from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_handler import DataError, MixedStream, SourceConfig
from data_handler.mixing import HORIZON_TOKENS

LENGTHS = {"short": 3, "middle": 50, "long": 2000}


@pytest.fixture(scope="module")
def uneven(write_jsonl: Callable[..., Path]) -> dict[str, str]:
    """Sources whose documents have very different lengths."""
    return {name: str(write_jsonl([f"{name} " + "7 " * words] * 40)) for name, words in LENGTHS.items()}


def shares(stream: MixedStream, num_tokens: int) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for document in stream:
        counts[document.source] += len(document.tokens)
        if counts.total() > num_tokens:
            break
    return {name: count / counts.total() for name, count in counts.items()}


@given(weights=st.tuples(*[st.floats(0.05, 1)] * 3), shard=st.integers(0, 5))
@settings(max_examples=5, deadline=None)
def test_weights_are_shares_of_tokens(
    uneven: dict[str, str], tokenizer: Any, weights: tuple[float, ...], shard: int
) -> None:
    sources = [
        SourceConfig("path", name, path, weight=weight)
        for (name, path), weight in zip(uneven.items(), weights, strict=True)
    ]
    num_tokens = 8 * HORIZON_TOKENS
    found = shares(MixedStream(sources, tokenizer, shard, 6), num_tokens)
    for source in sources:
        expected = source.weight / sum(weights)
        assert abs(found[source.name] - expected) <= (HORIZON_TOKENS + 5000) / num_tokens


def test_shards_do_not_start_in_step(uneven: dict[str, str], tokenizer: Any) -> None:
    """A rare source of long documents must not come first on every rank at once."""
    sources = [
        SourceConfig("path", "short", uneven["short"], weight=0.95),
        SourceConfig("path", "long", uneven["long"], weight=0.05),
    ]
    firsts = [next(iter(MixedStream(sources, tokenizer, i, 40))).source for i in range(40)]
    assert 0 <= firsts.count("long") <= 8


def test_weights_can_change_while_it_runs(uneven: dict[str, str], tokenizer: Any) -> None:
    stream = MixedStream([SourceConfig("path", n, p) for n, p in uneven.items()], tokenizer)
    shares(stream, HORIZON_TOKENS)
    stream.set_weights({"long": 0, "short": 3})
    found = shares(stream, 4 * HORIZON_TOKENS)
    assert "long" not in found
    assert abs(found["short"] - 0.75) < 0.25
    assert stream.weights == {"short": 3.0, "middle": 1.0, "long": 0.0}


def test_shares_hold_when_weights_change_often(uneven: dict[str, str], tokenizer: Any) -> None:
    """Counting from 0 after each change would draw by documents, and nearly all tokens would be `long`."""
    stream = MixedStream([SourceConfig("path", n, uneven[n]) for n in ("middle", "long")], tokenizer)
    counts, changed = Counter[str](), 0
    for document in stream:
        counts[document.source] += len(document.tokens)
        if counts.total() // 10_000 > changed:
            changed = counts.total() // 10_000
            stream.set_weights({"long": 0.5 + 0.1 * (-1) ** changed})
        if counts.total() > 6 * HORIZON_TOKENS:
            break
    assert stream.weights.keys() == {"middle", "long"}
    middle = 0.5 * (1 / 1.6 + 1 / 1.4)
    assert abs(counts["middle"] / counts.total() - middle) < 0.15


def test_wrong_weights_are_refused(uneven: dict[str, str], tokenizer: Any) -> None:
    stream = MixedStream([SourceConfig("path", n, p) for n, p in uneven.items()], tokenizer)
    for weights, message in (
        ({"lang": 1}, "no source is named 'lang'; the sources are"),
        ({"long": -1}, "weight is -1"),
        ({"long": 0, "short": 0, "middle": 0}, "all sources are 0"),
    ):
        with pytest.raises(DataError, match=message):
            stream.set_weights(weights)
    assert set(stream.weights.values()) == {1.0}


def test_a_source_that_ends_leaves_the_mixture(numbered: Callable[..., SourceConfig], tokenizer: Any) -> None:
    sources = [numbered("a", 5, repeat=False), numbered("b", 40, repeat=False)]
    found = Counter(document.source for document in MixedStream(sources, tokenizer))
    assert found == {"a": 5, "b": 40}


@given(taken=st.integers(0, 80))
@settings(max_examples=20, deadline=None)
def test_resume_gives_the_same_documents(
    numbered: Callable[..., SourceConfig], tokenizer: Any, taken: int
) -> None:
    sources = [numbered("a", 5, repeat=False), numbered("b", 40)]
    first = MixedStream(sources, tokenizer)
    for _ in islice(first, taken):
        pass
    state = json.loads(json.dumps(first.state_dict()))
    expected = list(islice(first, 20))
    second = MixedStream(sources, tokenizer)
    second.load_state_dict(state)
    for old, new in zip(expected, islice(second, 20), strict=True):
        assert old.source == new.source
        np.testing.assert_array_equal(old.tokens, new.tokens)
