"""Which documents are scored: a random sample of each domain, the same for the same files and seed.

A document's place in the order is a hash of seed and place, so those that come first are a sample of all,
however many the time allows; none of the probe is among them. Two passes over the files: one to find the
documents, one for their tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any, NamedTuple

from data_handler.corpus.domains import Document, Domain, Reading, documents_of
from data_handler.encoding import Encoder, TokenArray
from data_handler.held_out import text_hash
from data_handler.stream import hash_fraction
from wrinklefree.data_choice.progress import reading_bar

_ENCODED_AT_ONCE = 64


class Candidate(NamedTuple):
    """tokens: int32, the first ones; num_tokens: of the whole document."""

    domain: str
    file: str
    line: int
    tokens: TokenArray
    num_tokens: int


@dataclass(frozen=True)
class Sample:
    """candidates: in the order in which they are scored; num_documents: of each domain, those of the probe
    not counted; of_probe: places of documents that are the probe's."""

    candidates: list[Candidate]
    num_documents: dict[str, int]
    of_probe: list[str]


def sample(
    domains: Sequence[Domain],
    reading: Reading,
    known: Container[str],
    most_documents: int,
    seed: int,
    tokenizer: Any,
    most_tokens: int,
    *,
    evenly: bool,
) -> Sample:
    """Args:
        known: hashes of the probe's documents.
        most_documents: at most so many candidates.
        most_tokens: kept of each.
        evenly: as many of each domain, instead of in proportion.

    Raises: DataError.
    """
    counts = dict.fromkeys((domain.name for domain in domains), 0)
    of_probe: list[str] = []

    def keyed(domain: Domain, advance: Any) -> Iterator[tuple[float, str, int]]:
        for document in documents_of(domain, reading):
            advance(document)
            if text_hash(document.text) in known:
                of_probe.append(document.place)
                continue
            counts[domain.name] += 1
            key = hash_fraction(seed, domain.name, document.file.name, document.line)
            yield key, *_place(document)

    with reading_bar("reading", domains) as advance:
        first = {d.name: heapq.nsmallest(most_documents, keyed(d, advance)) for d in domains}
    order = _in_turn(first) if evenly else _by_key(first)
    places = {place: number for number, place in enumerate(islice(order, most_documents))}
    with reading_bar("tokens", domains) as advance:
        found = {
            places[candidate.domain, candidate.file, candidate.line]: candidate
            for domain in domains
            for candidate in _encoded(domain, reading, places, tokenizer, most_tokens, advance)
        }
    return Sample([found[number] for number in sorted(found)], counts, of_probe)


def _place(document: Document) -> tuple[str, int]:
    """Whole path and line: scores are read elsewhere than they were made."""
    return str(document.file.absolute()), document.line


_Keys = Mapping[str, Sequence[tuple[float, str, int]]]


def _by_key(first: _Keys) -> Iterator[tuple[str, str, int]]:
    rows = sorted((key, name, file, line) for name, keys in first.items() for key, file, line in keys)
    return ((name, file, line) for _, name, file, line in rows)


def _in_turn(first: _Keys) -> Iterator[tuple[str, str, int]]:
    rows = ([(name, file, line) for _, file, line in keys] for name, keys in first.items())
    return (place for turn in zip_longest(*rows) for place in turn if place is not None)


def _encoded(
    domain: Domain,
    reading: Reading,
    places: Container[tuple[str, str, int]],
    tokenizer: Any,
    most_tokens: int,
    advance: Any,
) -> Iterator[Candidate]:
    encoder = Encoder(tokenizer)

    def wanted() -> Iterator[Document]:
        for document in documents_of(domain, reading):
            advance(document)
            if (domain.name, *_place(document)) in places:
                yield document

    documents = wanted()
    while batch := list(islice(documents, _ENCODED_AT_ONCE)):
        for document, tokens in zip(batch, encoder.encode([one.text for one in batch]), strict=True):
            first = tokens[:most_tokens].copy()
            yield Candidate(domain.name, *_place(document), first, len(tokens))
