"""What a loader's state belongs to, whether it fits another run, and what it tells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from data_handler.conversations import ConversationTemplate
from data_handler.encoding import Encoder
from data_handler.errors import DataChangedError, DataError
from data_handler.packing import PackedDataset
from data_handler.skipped import Skipped, summed
from data_handler.sources.base import have_same_names
from data_handler.sources.opening import open_source
from data_handler.stream import Position

_SOURCE = "source "


def fingerprint(dataset: PackedDataset, num_workers: int) -> dict[str, Any]:
    """What has to be the same for a state to fit. Raises: DataError if a source's files are bad."""
    return {
        "seq_len_tokens": dataset.seq_len_tokens,
        "batch_size": dataset.batch_size,
        "seed": dataset.seed,
        "rank": dataset.rank,
        "world_size": dataset.world_size,
        "num_workers": num_workers,
        "block_documents": dataset.block_documents,
        "tokenizer": Encoder(dataset.tokenizer).digest(),
        **_template(dataset),
        **({} if dataset.held_out is None else {"held_out": dataset.held_out.digest()}),
        **{f"{_SOURCE}{source.name}": open_source(source).digest() for source in dataset.sources},
    }


def _template(dataset: PackedDataset) -> dict[str, str]:
    """The chat template, where conversations are written in it."""
    if all(source.record_format is None for source in dataset.sources):
        return {}
    source = ConversationTemplate.of(dataset.tokenizer).source
    return {"chat_template": hashlib.sha256(source.encode()).hexdigest()[:16]}


def check_fingerprint(saved: Mapping[str, Any], mine: Mapping[str, Any], accept_changed: bool) -> list[str]:
    """Names of the sources whose content has changed, which is accepted or an error.

    Raises:
        DataChangedError: a source has other files, or other content that is not accepted.
        DataError: anything else differs.
    """
    changed = [key for key in {**mine, **saved} if saved.get(key) != mine.get(key)]
    for key in changed:
        if not (key.startswith(_SOURCE) and key in saved and key in mine):
            raise DataError(
                f"{_difference(key, saved, mine)}: use the same setting and data, or start the data anew"
            )
    names = [key.removeprefix(_SOURCE) for key in changed]
    if other := [key for key in changed if not have_same_names(saved[key], mine[key])]:
        raise DataChangedError(
            f"{_difference(other[0], saved, mine)}: it reads other files or columns, so a position in it "
            "means nothing: use the data of then, or start the data anew",
            names,
            position_fits=False,
        )
    if changed and not accept_changed:
        raise DataChangedError(
            f"{_difference(changed[0], saved, mine)}: its files have the same names and another content: "
            "use the data of then, go on at the same position of the new content, or start the data anew",
            names,
            position_fits=True,
        )
    return names


def _difference(key: str, saved: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    return f"the data state was saved with {key} = {saved.get(key)!r}, this run has {mine.get(key)!r}"


def relocated(state: Mapping[str, Any], names: list[str]) -> Mapping[str, Any]:
    """The state with its places in the sources `names` found by lines or rows, not by bytes."""
    if not names:
        return state
    workers = [worker and _relocated_worker(worker, names) for worker in state["workers"]]
    return {**state, "workers": workers}


def _relocated_worker(worker: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    stream = worker["stream"]
    positions = {
        name: _by_line(position) if name in names else position
        for name, position in stream["mixture"]["positions"].items()
    }
    return {**worker, "stream": {**stream, "mixture": {**stream["mixture"], "positions": positions}}}


def _by_line(position: list[Any]) -> list[Any]:
    """A mark of [bytes, lines] without its bytes (see lines.LineReader); others stay."""
    place = Position.from_json(position)
    mark = place.block_start.mark
    if isinstance(mark, list) and len(mark) == 2 and isinstance(mark[1], int):
        mark = [None, mark[1]]
    return place._replace(block_start=place.block_start._replace(mark=mark)).to_json()


def skipped_records(state: Mapping[str, Any]) -> dict[str, Skipped]:
    """By source, summed over the workers of a loader's state (one rank)."""
    positions = [worker["stream"]["mixture"]["positions"] for worker in state["workers"] if worker]
    names = dict.fromkeys(name for found in positions for name in found)
    return {name: summed(Position.from_json(found[name]).skipped for found in positions) for name in names}
