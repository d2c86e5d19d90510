"""What a packed sequence holds, and that a model treats its documents as if they were alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_handler import DataError, PackedDataset, Piece, SourceConfig, pack
from data_handler.mixing import MixedStream

pieces = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@given(lengths=pieces, seq_len=st.integers(1, 9))
@settings(deadline=None)
def test_pack_against_a_plain_loop(lengths: list[int], seq_len: int) -> None:
    ids = iter(range(100, 1000))
    documents = [np.array([next(ids) for _ in range(n)], np.int32) for n in lengths]
    rows: list[tuple[int, int, int, int, int]] = []
    for source, document in enumerate(documents):
        for i, token in enumerate(document):
            new_sequence = len(rows) % seq_len == 0
            new = i == 0 or new_sequence
            position = 0 if new else rows[-1][2] + 1
            number = 0 if new_sequence else rows[-1][3] + new
            rows.append((token, -100 if new else token, position, number, source))
    numbered = [Piece(document, source=source) for source, document in enumerate(documents)]
    packed = pack(numbered, seq_len, fill_token_id=7)
    names = ("input_ids", "labels", "position_ids", "document_ids", "source_ids")
    flat = [packed[name].flatten().tolist() for name in names]
    assert list(zip(*flat, strict=True))[: len(rows)] == rows
    fill = [values[len(rows) :] for values in flat]
    assert len(fill[0]) == -len(rows) % seq_len
    assert set(fill[0]) <= {7}
    assert set(fill[1]) <= {-100}
    assert fill[2] == list(range(len(fill[2])))
    assert set(fill[3]) | set(fill[4]) <= {-1}
    assert all(values.dtype == torch.int64 for values in packed.values())


def test_no_token_is_lost_or_doubled(two_sources: list[SourceConfig], tokenizer: Any) -> None:
    sources = [SourceConfig("path", s.name, s.location, repeat=False) for s in two_sources]
    expected = np.concatenate([d.tokens for d in MixedStream(sources, tokenizer)])
    batches = list(PackedDataset(sources, tokenizer, 32, 4, document_ids=True))
    ids = torch.cat([batch["input_ids"].flatten() for batch in batches])
    kept = torch.cat([batch["document_ids"].flatten() for batch in batches]) >= 0
    assert ids[kept].tolist() == expected.tolist()
    assert kept.all() or not kept[kept.int().argmin() :].any()
    assert all(batch["input_ids"].shape == (4, 32) for batch in batches[:-1])


def test_rows_without_batch_size(two_sources: list[SourceConfig], tokenizer: Any) -> None:
    rows = list(islice(PackedDataset(two_sources, tokenizer, 32), 8))
    batches = list(islice(PackedDataset(two_sources, tokenizer, 32, 4), 2))
    assert set(rows[0]) == {"input_ids", "labels", "position_ids", "source_ids"}
    for name in rows[0]:
        stacked = torch.stack([row[name] for row in rows])
        assert torch.equal(stacked, torch.cat([batch[name] for batch in batches]))


def test_plain_dataloader_workers_share_the_documents(
    two_sources: list[SourceConfig], tokenizer: Any
) -> None:
    sources = [SourceConfig("path", s.name, s.location, repeat=False) for s in two_sources]
    dataset = PackedDataset(sources, tokenizer, 64, 1, document_ids=True)
    batches = list(DataLoader(dataset, batch_size=None, num_workers=2))
    num_tokens = sum((batch["document_ids"] >= 0).sum().item() for batch in batches)
    assert num_tokens == sum(len(d.tokens) for d in MixedStream(sources, tokenizer))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen3", "tiny_qwen2"])
@torch.inference_mode()
def test_a_packed_document_has_the_logits_it_has_alone(
    family: str,
    attention: str,
    two_sources: list[SourceConfig],
    tokenizer: Any,
    request: pytest.FixtureRequest,
) -> None:
    model = request.getfixturevalue(family)(attn_implementation=attention)
    dataset = PackedDataset(two_sources, tokenizer, 96, 3, document_ids=True)
    batch = next(iter(dataset))
    ids, positions = batch["input_ids"], batch["position_ids"]
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    blind = model(input_ids=ids, use_cache=False).logits
    checked = 0
    for row in range(3):
        for number in batch["document_ids"][row].unique():
            place = batch["document_ids"][row] == number
            alone = model(input_ids=ids[row, place][None], use_cache=False).logits[0]
            torch.testing.assert_close(packed[row, place], alone, atol=2e-5, rtol=1e-4)
            checked += 1
            if number > 0:  # the test would see leakage: without positions the logits differ
                assert (blind[row, place] - alone).abs().max() > 1e-2
    assert checked > 6


@torch.inference_mode()
def test_the_models_own_loss_is_the_mean_over_documents_alone(
    two_sources: list[SourceConfig], tokenizer: Any, tiny_llama: Callable[..., Any]
) -> None:
    model = tiny_llama()
    batch = next(iter(PackedDataset(two_sources, tokenizer, 96, 3, document_ids=True)))
    document_ids = batch.pop("document_ids")
    loss = model(**batch, use_cache=False).loss
    total, count = 0.0, 0
    for row in range(3):
        for number in document_ids[row].unique():
            ids = batch["input_ids"][row, document_ids[row] == number][None]
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
    assert count == (batch["labels"] != -100).sum()
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_settings_that_do_not_fit(two_sources: list[SourceConfig], tokenizer: Any) -> None:
    for options, message in (
        ({"seq_len_tokens": 0}, "seq_len_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"block_documents": 0}, "block_documents is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of world_size 2"),
    ):
        with pytest.raises(DataError, match=message):
            PackedDataset(two_sources, tokenizer, **{"seq_len_tokens": 8} | options)
