"""The loader: exact resume, ranks and workers, weights that change, errors from workers."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_handler import DataError, PackedLoader, SourceConfig, make_loader

NAMES = ("input_ids", "labels", "position_ids", "source_ids")


def assert_same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for name in NAMES:
            assert torch.equal(a[name], b[name])
        assert json.dumps(a["state"]) == json.dumps(b["state"])


def through_json(state: object) -> Any:
    return json.loads(json.dumps(state))


@pytest.fixture(scope="module")
def make(two_sources: list[SourceConfig], tokenizer: Any) -> Callable[..., PackedLoader]:
    def loader(**options: Any) -> PackedLoader:
        sources = options.pop("sources", two_sources)
        return make_loader(sources, tokenizer, 48, 2, block_documents=16, **options)

    return loader


def run_with_changes(
    loader: PackedLoader, num_batches: int, changes: dict[int, dict[str, float]], done: int = 0
) -> list[dict[str, Any]]:
    """Batches done..num_batches; after batch n the weights changes[n] are set."""
    batches = []
    for batch in islice(loader, num_batches - done):
        batches.append(batch)
        done += 1
        if done in changes:
            loader.set_weights(changes[done])
            batches[-1]["state"] = loader.state_dict(after=batch["state"])
    return batches


CHANGES = {5: {"left": 0.0}, 9: {"left": 2.0, "right": 1.0}, 10: {"right": 0.0}}


@given(at=st.integers(0, 60), rank=st.integers(0, 1), world_size=st.just(2))
@settings(max_examples=25, deadline=None)
def test_resume_in_process_is_exact(
    make: Callable[..., PackedLoader], at: int, rank: int, world_size: int
) -> None:
    """60 batches are several epochs of both sources."""
    options = {"rank": rank, "world_size": world_size, "seed": 3}
    whole = run_with_changes(make(**options), at + 6, CHANGES)
    resumed = make(**options)
    if at:
        resumed.load_state_dict(through_json(whole[at - 1]["state"]))
    assert_same(run_with_changes(resumed, at + 6, CHANGES, done=at), whole[at:])


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_resume_with_worker_processes_is_exact(
    make: Callable[..., PackedLoader], rank: int, world_size: int
) -> None:
    options = {"rank": rank, "world_size": world_size, "num_workers": 2}
    whole = run_with_changes(make(**options), 24, CHANGES)
    for at in (1, 4, 5, 7, 10, 13):
        resumed = make(**options)
        resumed.load_state_dict(through_json(whole[at - 1]["state"]))
        assert_same(run_with_changes(resumed, at + 8, CHANGES, done=at), whole[at : at + 8])


def test_state_is_that_of_what_was_consumed(make: Callable[..., PackedLoader]) -> None:
    """A prefetcher in between, like Lightning's, which is two batches ahead of the trainer."""
    loader = make(num_workers=2)
    fetched = list(islice(loader, 8))
    consumed = fetched[5]
    loader.set_weights({"left": 5.0})
    state = through_json(loader.state_dict(after=consumed["state"]))
    expected = list(islice(loader, 12))
    resumed = make(num_workers=2)
    resumed.load_state_dict(state)
    found = list(islice(resumed, 14))
    for name in NAMES:
        for old, new in zip([*fetched[6:], *expected], found, strict=True):
            assert torch.equal(old[name], new[name])
    assert resumed.weights == {"left": 5.0, "right": 0.5}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_tell_the_source_of_each_token(
    make: Callable[..., PackedLoader], two_sources: list[SourceConfig], num_workers: int, tokenizer: Any
) -> None:
    """By its number in the order of the configuration; resuming is exact in it, as `assert_same` compares."""
    for batch in islice(make(num_workers=num_workers), 12):
        starts = (batch["position_ids"] == 0).flatten().nonzero().flatten().tolist()
        ids, found = batch["input_ids"].flatten(), batch["source_ids"].flatten()
        for start, end in itertools.pairwise([*starts, len(ids)]):
            assert len(found[start:end].unique()) == 1, "a document is of one source"
            text = tokenizer.decode(ids[start:end])
            named = [number for number, s in enumerate(two_sources) if f"{s.name}-" in text]
            assert named in ([], [int(found[start])])  # the rest of a document that was cut has no name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_iter_goes_on_where_it_stopped(make: Callable[..., PackedLoader], num_workers: int) -> None:
    whole = list(islice(make(num_workers=num_workers), 9))
    loader = make(num_workers=num_workers)
    assert_same([*islice(loader, 4), *islice(loader, 5)], whole)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_new_weights_come_into_force_after_the_batches_asked_for(
    make: Callable[..., PackedLoader], num_workers: int, tokenizer: Any
) -> None:
    loader = make(num_workers=num_workers)
    batches = []
    for batch in islice(loader, 30):
        batches.append(tokenizer.decode(batch["input_ids"].flatten()))
        if len(batches) == 6:
            loader.set_weights({"left": 0})
    first = 6 + 2 * num_workers
    old = list(islice(make(num_workers=num_workers), first))
    assert batches[:first] == [tokenizer.decode(b["input_ids"].flatten()) for b in old]
    begun = max(1, num_workers)  # the document that was open is finished first
    assert not any("left-" in text for text in batches[first + begun :])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_and_workers_share_the_documents(
    numbered: Callable[..., SourceConfig],
    make: Callable[..., PackedLoader],
    documents_of: Callable[[PackedLoader], list[str]],
    world_size: int,
    num_workers: int,
) -> None:
    sources = [numbered("a", 31, repeat=False), numbered("b", 3, repeat=False)]
    found = [
        name
        for rank in range(world_size)
        for name in documents_of(
            make(sources=sources, rank=rank, world_size=world_size, num_workers=num_workers)
        )
    ]
    names = [document.split()[0] for document in found]
    assert sorted(names) == sorted([f"a-{i}" for i in range(31)] + [f"b-{i}" for i in range(3)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sources_that_end(
    numbered: Callable[..., SourceConfig], make: Callable[..., PackedLoader], num_workers: int
) -> None:
    """One pass, the same pass again; resuming after any batch gives the rest."""
    options = {"sources": [numbered("a", 21, repeat=False)], "num_workers": num_workers}
    loader = make(**options)
    whole = list(loader)
    assert_same(list(loader), whole)
    for at in range(1, len(whole) + 1):
        resumed = make(**options)
        resumed.load_state_dict(through_json(whole[at - 1]["state"]))
        assert_same(list(resumed), whole[at:])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_name_file_and_line_also_from_workers(
    make: Callable[..., PackedLoader], tmp_path: Path, num_workers: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n{"text": "good"}\n{"txt": 1}\n')
    source = SourceConfig("path", "mine", str(path))
    with pytest.raises(DataError, match=r"a\.jsonl, line 3: no field 'text'"):
        next(iter(make(sources=[source], num_workers=num_workers)))


def test_a_missing_file_is_found_before_training(make: Callable[..., PackedLoader], tmp_path: Path) -> None:
    source = SourceConfig("path", "mine", str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"none\.jsonl does not exist"):
        make(sources=[source])


def test_a_state_of_something_else_is_refused(
    make: Callable[..., PackedLoader], write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    state = make().state_dict()
    for options, key in (
        ({"seed": 1}, "seed = 0, this run has 1"),
        ({"num_workers": 2}, "num_workers = 0, this run has 2"),
        ({"rank": 1, "world_size": 2}, "rank = 0, this run has 1"),
    ):
        with pytest.raises(DataError, match=f"saved with {key}"):
            make(**options).load_state_dict(state)
    path = write_jsonl(["one"])
    source = SourceConfig("path", "mine", str(path))
    saved = make(sources=[source]).state_dict()
    path.write_text('{"text": "changed"}\n')
    with pytest.raises(DataError, match="saved with source mine = "):
        make(sources=[source]).load_state_dict(saved)
    with pytest.raises(DataError, match="saved with seq_len_tokens = None"):
        make().load_state_dict({})
    with pytest.raises(DataError, match="saved with source left = None"):
        make().load_state_dict(saved)


PROGRAM = """
import hashlib, sys
from itertools import islice
from types import SimpleNamespace
from tokenizers import Tokenizer
from data_handler import SourceConfig, make_loader
if __name__ == "__main__":
    backend = Tokenizer.from_file(sys.argv[1])
    tokenizer = SimpleNamespace(backend_tokenizer=backend, eos_token_id=2)
    sources = [
        SourceConfig("path", "left", sys.argv[2]),
        SourceConfig("path", "right", sys.argv[3], weight=0.5),
    ]
    loader = make_loader(sources, tokenizer, 48, 2, num_workers=int(sys.argv[4]), block_documents=16)
    data = b"".join(batch["input_ids"].numpy().tobytes() for batch in islice(loader, 10))
    print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_another_process_gives_the_same_batches(
    make: Callable[..., PackedLoader],
    two_sources: list[SourceConfig],
    tokenizer: Any,
    tmp_path: Path,
    num_workers: int,
) -> None:
    saved = tmp_path / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(saved))
    files = [source.location for source in two_sources]
    arguments = [sys.executable, "-c", PROGRAM, str(saved), *files, str(num_workers)]
    found = subprocess.run(
        arguments,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    here = islice(make(num_workers=num_workers), 10)
    data = b"".join(batch["input_ids"].numpy().tobytes() for batch in here)
    assert found == hashlib.sha256(data).hexdigest()


def test_real_text(shared_data: Path, make: Callable[..., PackedLoader], tokenizer: Any) -> None:
    folder = shared_data / "pretrain"
    sources = [
        SourceConfig("path", name, str(folder / name / "train.jsonl.gz"), weight=weight)
        for name, weight in {"tinystories": 2, "wikipedia": 1, "math_latex": 1}.items()
    ]
    options = {"sources": sources, "num_workers": 2, "document_ids": True}
    whole = list(islice(make(**options), 12))
    resumed = make(**options)
    resumed.load_state_dict(through_json(whole[6]["state"]))
    assert_same(list(islice(resumed, 5)), whole[7:])
    assert all((batch["document_ids"] >= 0).all() for batch in whole)
