"""Files without their near-duplicates, within each and across all: one pass, documents streamed.

    FOLDER/text/<domain>.jsonl.gz   what stays, records as they stood (.jsonl where a file was not packed)
    FOLDER/dropped.jsonl            each document that was left out, and the one that stands for it
    FOLDER/dedup.json               counts by domain, the rule, and the names of the files written

Memory: about 4 KB a document that stays (its signature and its places in the index), not its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from data_handler.corpus.domains import Document, Domain, Reading, documents_of
from data_handler.corpus.near_duplicates import DuplicateRule, NearDuplicates, Twin
from data_handler.corpus.writing import json_lines, line_of

REPORT_FILE, DROPPED_FILE, TEXT_FOLDER = "dedup.json", "dropped.jsonl", "text"

Place = tuple[str, str, int]
"""Domain, file, line."""


@dataclass
class DomainCount:
    """What became of a domain; characters, not bytes. file: what was written, below the folder; None: nothing
    stayed."""

    name: str
    files: list[str]
    documents: int = 0
    characters: int = 0
    kept_documents: int = 0
    kept_characters: int = 0
    file: str | None = None
    twins_in: dict[str, int] = field(default_factory=dict)
    """Domain -> how many of the dropped have their twin there."""


def deduplicate(
    domains: Sequence[Domain],
    reading: Reading,
    rule: DuplicateRule,
    folder: Path,
    advance: Callable[[Document], None],
) -> list[DomainCount]:
    """Writes into an empty folder.

    Args:
        advance: called with each document that was read.

    Raises:
        DataError: an empty or damaged file; names it.
    """
    seen: NearDuplicates[Place] = NearDuplicates(rule)
    (folder / TEXT_FOLDER).mkdir()
    with (folder / DROPPED_FILE).open("w") as dropped:
        counts = [_deduplicated(domain, reading, seen, folder, dropped, advance) for domain in domains]
    report = {
        "rule": asdict(rule),
        "domains": [asdict(count) for count in counts],
        "files": [REPORT_FILE, DROPPED_FILE, *(count.file for count in counts if count.file)],
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    return counts


def _deduplicated(
    domain: Domain,
    reading: Reading,
    seen: NearDuplicates[Place],
    folder: Path,
    dropped: IO[str],
    advance: Callable[[Document], None],
) -> DomainCount:
    is_packed = all(file.suffix == ".gz" for file in domain.files)
    name = f"{TEXT_FOLDER}/{domain.name}.jsonl{'.gz' if is_packed else ''}"
    count = DomainCount(domain.name, [str(file) for file in domain.files])
    with json_lines(folder / name, is_packed=is_packed) as kept:
        for document, twin in _with_twins(domain, reading, seen):
            count.documents += 1
            count.characters += len(document.text)
            if twin is None:
                kept.write(line_of(document, reading.text_column))
                count.kept_documents += 1
                count.kept_characters += len(document.text)
            else:
                dropped.write(json.dumps(_row(document, twin)) + "\n")
                count.twins_in[twin.key[0]] = count.twins_in.get(twin.key[0], 0) + 1
            advance(document)
    if count.kept_documents:
        count.file = name
    else:
        (folder / name).unlink()  # a source without a text is an error of the training
    return count


def _with_twins(
    domain: Domain, reading: Reading, seen: NearDuplicates[Place]
) -> Iterator[tuple[Document, Twin[Place] | None]]:
    for document in documents_of(domain, reading):
        place = document.domain, str(document.file), document.line
        yield document, seen.twin_or_add(document.text, place)


def _row(document: Document, twin: Twin[Place]) -> dict[str, Any]:
    domain, file, line = twin.key
    return {
        "domain": document.domain,
        "file": str(document.file),
        "line": document.line,
        "similarity": round(twin.similarity, 3),
        "twin": {"domain": domain, "file": file, "line": line},
    }
