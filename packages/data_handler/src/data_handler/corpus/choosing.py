"""The best documents of a share of the tokens, and their texts in one file.

Documents are taken by score until one more would lead further away from the share; so it is met to half of a
document. Those of equal score are taken in an order that depends on their places alone, not on that of the
files. The file has them mixed evenly: at each place of it every domain is through with about the same part of
what was chosen of it, so a training that reads in order sees the whole mixture all along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_handler.corpus.domains import Document, Domain, Reading, documents_of
from data_handler.corpus.score_file import Scored
from data_handler.corpus.writing import json_lines, line_of
from data_handler.errors import DataError, DataRequestError
from data_handler.stream import hash_fraction


def check_share(share: float) -> None:
    """Raises: DataRequestError outside of (0, 1]."""
    if not 0 < share <= 1:
        raise DataRequestError(f"the share is {share:g}; give one above 0 and at most 1, such as 0.2")


def choose(scored: Sequence[Scored], share: float, *, by_domain: bool = False) -> list[Scored]:
    """Args: by_domain takes the share of each domain by itself. Raises: DataRequestError."""
    check_share(share)
    if not by_domain:
        return _best(scored, share)
    domains: dict[str, list[Scored]] = {}
    for document in scored:
        domains.setdefault(document.domain, []).append(document)
    return [document for rows in domains.values() for document in _best(rows, share)]


def _best(scored: Sequence[Scored], share: float) -> list[Scored]:
    wanted_tokens = share * sum(document.num_tokens for document in scored)
    ranked = sorted(scored, key=lambda one: (-one.score, hash_fraction(one.file, one.line)))
    chosen: list[Scored] = []
    num_tokens = 0
    for document in ranked:
        with_it = num_tokens + document.num_tokens
        if chosen and abs(with_it - wanted_tokens) > abs(num_tokens - wanted_tokens):
            break
        chosen.append(document)
        num_tokens = with_it
    return chosen


def write_chosen(
    chosen: Sequence[Scored], domains: Sequence[Domain], reading: Reading, target: Path, *, is_packed: bool
) -> None:
    """Writes the documents' records to a new file of JSON lines.

    Raises:
        DataError: a file does not hold a chosen document any more.
    """
    tokens: dict[str, dict[tuple[str, int], int]] = {domain.name: {} for domain in domains}
    for one in chosen:
        tokens[one.domain][one.file, one.line] = one.num_tokens
    streams = {
        domain.name: _chosen_of(domain, reading, tokens[domain.name])
        for domain in domains
        if tokens[domain.name]
    }
    totals = {name: sum(tokens[name].values()) for name in streams}
    with json_lines(target, is_packed=is_packed) as file:
        for document in _evenly(streams, totals, tokens):
            file.write(line_of(document, reading.text_column))


def _chosen_of(domain: Domain, reading: Reading, wanted: Mapping[tuple[str, int], int]) -> Iterator[Document]:
    left = set(wanted)
    for document in documents_of(domain, reading):
        place = str(document.file), document.line
        if place in left:
            left.remove(place)
            yield document
        if not left:
            return
    file, line = min(left)
    raise DataError(f"{file} has no document in line {line}, which was scored: score the files again")


def _evenly(
    streams: Mapping[str, Iterator[Document]],
    totals: Mapping[str, int],
    tokens: Mapping[str, Mapping[tuple[str, int], int]],
) -> Iterator[Document]:
    """Always the next document of the stream of which the smallest part was handed out."""
    done = dict.fromkeys(streams, 0.0)
    left = dict(streams)
    while left:
        name = min(left, key=lambda name: done[name])
        document = next(left[name], None)
        if document is None:
            del left[name]
            continue
        done[name] += tokens[name][str(document.file), document.line] / totals[name]
        yield document
