"""Processes divide the shares of the data: each step has the same sequences, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from data_handler import SourceConfig, make_loader
from wrinklefree.data_shares import InTurn, in_order, numbers_of
from wrinklefree.distributed import RanksError

State = dict[str, Any]


@pytest.fixture
def run(text_file: Path, byte_tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    """run(shares, [(processes, passes), ...]): the sequences of all passes, in the order of the run."""
    source = SourceConfig(kind="path", name="text", location=str(text_file))  # type: ignore[arg-type]
    tokenizer = byte_tokenizer()

    def passes_of(rank: int, num_ranks: int, num_shares: int, made: int, states: Any, num: int) -> Any:
        """Batches of a process that makes `num` passes after `made`, and its place then."""
        numbers = numbers_of(rank, num_ranks, num_shares)
        loaders = [make_loader([source], tokenizer, 32, 1, rank=n, world_size=num_shares) for n in numbers]
        for loader, number in zip(loaders, numbers, strict=True):
            if states is not None:
                loader.load_state_dict(states[number])
        in_turn = InTurn(loaders, made)
        batches = list(islice(in_turn, num))
        return batches, in_turn.place(batches[-1]["state"])

    def start(num_shares: int, parts: Sequence[tuple[int, int]]) -> list[Any]:
        found: list[Any] = []
        states: list[State] | None = None
        for num_ranks, num_passes in parts:
            made, num = len(found) // num_ranks, num_passes // num_ranks
            ranks = [passes_of(r, num_ranks, num_shares, made, states, num) for r in range(num_ranks)]
            assert {place.num_passes for _, place in ranks} == {made + num}
            states = in_order([place.states for _, place in ranks])
            passes = zip(*(batches for batches, _ in ranks), strict=True)
            found += [batch["input_ids"].tolist() for each in passes for batch in each]
        return found

    return start


def test_each_pass_has_the_sequences_it_would_have(run: Any) -> None:
    whole = run(4, [(4, 24)])
    assert len({str(ids) for ids in whole}) == 24
    assert run(4, [(4, 8), (2, 8), (1, 8)]) == whole
    assert run(4, [(1, 6), (2, 2), (2, 4), (4, 12)]) == whole
    assert run(2, [(2, 24)]) != whole


def test_a_number_that_does_not_divide_the_shares_is_refused() -> None:
    with pytest.raises(
        RanksError, match="4 of them, which 3 processes do not divide: go on with one of 1, 2, 4 "
    ):
        numbers_of(0, 3, 4)


def test_new_shares_are_a_multiple_of_the_processes(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["distributed=ddp", "distributed.devices=2", "data.num_shares=3"]
    assert cli_from_stage1("stage2_pretrain", *options).code == 2
    assert "data.num_shares=3 cannot be divided between 2 processes" in capsys.readouterr().err
