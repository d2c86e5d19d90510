"""The hub source on a local folder, which `datasets` streams by the same code."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_handler import DataError, PackedLoader, SourceConfig, TextStream, iter_documents, make_loader

NUM_DOCUMENTS = 60


@pytest.fixture(scope="module", params=[1, 4], ids=["one file", "four files"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set repository: parquet files in data/, split train."""
    root = tmp_path_factory.mktemp("hub")
    (root / "data").mkdir()
    size = NUM_DOCUMENTS // request.param
    for i in range(request.param):
        texts = [f"text {n} " + "7 " * (n % 11) for n in range(i * size, (i + 1) * size)]
        name = f"train-{i:05d}-of-{request.param:05d}.parquet"
        pq.write_table(pa.table({"body": texts}), root / "data" / name, row_group_size=8)
    return root


def source(folder: Path, **fields: Any) -> SourceConfig:
    return SourceConfig("hub", "set", str(folder), text_column="body", **fields)


def test_all_documents(folder: Path) -> None:
    texts = list(iter_documents(source(folder)))
    assert len(texts) == len(set(texts)) == NUM_DOCUMENTS


@pytest.mark.parametrize("num_shards", [2, 3, 4])
def test_shards_are_disjoint_and_their_union_is_the_whole(folder: Path, num_shards: int) -> None:
    once = source(folder, repeat=False)
    parts = [[d.text for d in TextStream(once, i, num_shards)] for i in range(num_shards)]
    assert sorted(text for part in parts for text in part) == sorted(iter_documents(once))


@pytest.mark.parametrize("taken", [0, 1, 9, 16, 31, 70])
def test_a_position_is_returned_to(folder: Path, taken: int) -> None:
    whole = [d.text for d in islice(TextStream(source(folder), 1, 2, block_documents=5), 100)]
    first = TextStream(source(folder), 1, 2, block_documents=5)
    for _ in islice(first, taken):
        pass
    second = TextStream(source(folder), 1, 2, block_documents=5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [d.text for d in islice(second, 100 - taken)] == whole[taken:]


def test_workers_do_not_divide_the_data_twice(
    folder: Path, tokenizer: Any, documents_of: Callable[[PackedLoader], list[str]]
) -> None:
    once = source(folder, repeat=False)
    loader = make_loader([once], tokenizer, 16, 1, num_workers=2)
    assert sorted(documents_of(loader)) == sorted(iter_documents(once))


def test_what_is_asked_of_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> datasets.IterableDataset:
        asked.append((args, options))
        return datasets.Dataset.from_dict({"text": ["x"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = SourceConfig("hub", "web", "org/set", subset="sample", split="validation")
    assert list(iter_documents(config)) == ["x"]
    assert asked == [(("org/set",), {"name": "sample", "split": "validation", "streaming": True})]


def test_a_missing_column_names_data_set_and_example(folder: Path) -> None:
    config = SourceConfig("hub", "set", str(folder))
    with pytest.raises(DataError, match=r"\[train\], example 1: no field 'text'.*\['body'\]"):
        next(iter_documents(config))


def test_a_missing_data_set_or_split(folder: Path, tmp_path: Path) -> None:
    for config in (source(folder, split="test"), source(tmp_path / "none")):
        with pytest.raises(DataError, match=r"cannot open the data set .* check location"):
            next(iter_documents(config))


@pytest.mark.network
def test_a_real_data_set_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    config = SourceConfig("hub", "stories", "roneneldan/TinyStories")
    assert all(len(text) > 20 for text in islice(iter_documents(config), 5))
