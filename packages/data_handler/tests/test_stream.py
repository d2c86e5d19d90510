"""Sharding and order of one source, as properties."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_handler import DataError, SourceConfig, TextStream

NUM_DOCUMENTS = 83


@pytest.fixture(scope="module")
def source(write_jsonl: Callable[..., Path]) -> SourceConfig:
    """Documents "0" to "82" in four files, some of them packed, with empty texts between."""
    files = [
        write_jsonl(map(str, range(30)), "a.jsonl"),
        write_jsonl(map(str, range(30, 31)), "b.jsonl.gz"),
        write_jsonl([], "c.jsonl"),
        write_jsonl(["", *map(str, range(31, 83)), "", ""], "d.jsonl.gz"),
    ]
    return SourceConfig("path", "numbers", [str(file) for file in files], repeat=False)


def texts(stream: TextStream) -> list[str]:
    return [document.text for document in stream]


shards = st.integers(1, 7)
seeds = st.integers(0, 3)
blocks = st.sampled_from([1, 2, 7, 1000])


@given(num_shards=shards, seed=seeds, block=blocks)
@settings(max_examples=30, deadline=None)
def test_shards_are_disjoint_and_their_union_is_the_whole(
    source: SourceConfig, num_shards: int, seed: int, block: int
) -> None:
    parts = [texts(TextStream(source, i, num_shards, seed, block)) for i in range(num_shards)]
    together = sorted(int(text) for part in parts for text in part)
    assert together == list(range(NUM_DOCUMENTS))


def test_shards_differ_by_one_document_at_most(numbered: Callable[..., SourceConfig]) -> None:
    source = numbered("even", 83, repeat=False)
    sizes = [len(texts(TextStream(source, i, 4))) for i in range(4)]
    assert sorted(sizes) == [20, 21, 21, 21]


@given(num_shards=shards, seed=seeds, block=blocks, taken=st.integers(0, 200), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_position_is_returned_to_also_in_later_epochs(
    source: SourceConfig, num_shards: int, seed: int, block: int, taken: int, data: st.DataObject
) -> None:
    endless = SourceConfig("path", "numbers", source.location)
    shard = data.draw(st.integers(0, num_shards - 1))

    def stream() -> TextStream:
        return TextStream(endless, shard, num_shards, seed, block)

    whole = [document.text for document in islice(stream(), taken + 50)]
    first = stream()
    for _ in islice(first, taken):
        pass
    state = json.loads(json.dumps(first.state_dict()))
    second = stream()
    second.load_state_dict(state)
    assert [document.text for document in islice(second, 50)] == whole[taken:]


def test_epochs_and_seeds_have_their_own_order(source: SourceConfig) -> None:
    endless = SourceConfig("path", "numbers", source.location)
    two_epochs = [document.text for document in islice(TextStream(endless), 2 * NUM_DOCUMENTS)]
    first, second = two_epochs[:NUM_DOCUMENTS], two_epochs[NUM_DOCUMENTS:]
    assert sorted(first) == sorted(second)
    assert first != second
    assert texts(TextStream(source)) == first
    assert texts(TextStream(source, seed=1)) != first
    assert texts(TextStream(source, block_documents=1)) == [str(i) for i in range(NUM_DOCUMENTS)]


def test_the_order_is_the_same_on_every_machine(source: SourceConfig) -> None:
    found = texts(TextStream(source, seed=5, block_documents=4))
    assert found[:8] == ["31", "32", "33", "36", "37", "34", "35", "40"]


def test_shuffled_places_are_uniform(source: SourceConfig) -> None:
    """The mean place of each document over 300 seeds: 41 +- 1.4 if uniform; 7 sigma allowed."""
    totals = [0] * NUM_DOCUMENTS
    single = SourceConfig("path", "n", source.location[3], repeat=False)
    for seed in range(300):
        for place, text in enumerate(texts(TextStream(single, seed=seed))):
            totals[int(text)] += place
    means = [total / 300 for total in totals[31:]]
    assert all(abs(mean - 25.5) < 7 * 0.87 for mean in means)


def test_an_empty_source_is_an_error(write_jsonl: Callable[..., Path]) -> None:
    for records, message in (([], "is empty: no document in"), (["", ""], "every text of .* is empty")):
        for repeat in (True, False):
            source = SourceConfig("path", "none", str(write_jsonl(records)), repeat=repeat)
            with pytest.raises(DataError, match=rf"source 'none' {message}|'none': {message}"):
                texts(TextStream(source))


def test_fewer_documents_than_shards(numbered: Callable[..., SourceConfig]) -> None:
    with pytest.raises(DataError, match=r"'few' has 3 documents for 4 shards.*fewer workers"):
        texts(TextStream(numbered("few", 3), shard=3, num_shards=4))
    assert texts(TextStream(numbered("few", 3, repeat=False), shard=3, num_shards=4)) == []
