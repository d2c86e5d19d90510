"""Scores of documents on the disk: a folder with scores.jsonl and scores.json, which says what they are of.

    {"domain": "books", "file": "/data/books.jsonl.gz", "line": 17, "tokens": 812, "score": 0.031}

A higher score helps the probe more. scores.json has the model, the probe, the estimator, and of each domain
its files with digests, by which a file that changed since is noticed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_handler.config import TextUnit
from data_handler.corpus.domains import Domain, Reading
from data_handler.errors import DataError, DataRequestError
from data_handler.records import file_errors
from wf_formats.content import file_digest
from wf_formats.json_file import read_value

ROWS_FILE, REPORT_FILE = "scores.jsonl", "scores.json"
BY_DOCUMENT, BY_DOMAIN = "document", "domain"


class Scored(NamedTuple):
    """file: absolute; line: as in `domains.Document`; num_tokens: of the whole document."""

    domain: str
    file: str
    line: int
    num_tokens: int
    score: float

    def to_json(self) -> dict[str, Any]:
        return {
            "domain": self.domain,
            "file": self.file,
            "line": self.line,
            "tokens": self.num_tokens,
            "score": self.score,
        }


@dataclass(frozen=True)
class Scores:
    """rows: in the order of the files; domains and reading: how the files are read again."""

    rows: list[Scored]
    domains: list[Domain]
    reading: Reading


def described_files(domain: Domain) -> list[dict[str, str]]:
    """For scores.json. Raises: DataError for a file that cannot be read."""
    return [{"path": str(file.absolute()), "digest": digest_of(file)} for file in domain.files]


def digest_of(file: Path) -> str:
    with file_errors(file):
        return file_digest(file)


def read_scores(path: Path) -> Scores:
    """The scores of documents in a folder, or beside its scores.jsonl.

    Raises:
        DataRequestError: there are none, or they are of domains.
        DataError: damaged ones, or files that are gone or changed since; names what.
    """
    rows_file, report_file = files_of_scores(path)
    if not report_file.is_file():
        raise DataRequestError(
            f"{path} holds no scores ({REPORT_FILE} is not there): give the folder that wf data score wrote"
        )
    report = read_value(report_file, DataError)
    try:
        if report["by"] != BY_DOCUMENT:
            raise DataRequestError(
                f"{path} holds scores of domains, not of documents to choose: score without --by domain"
            )
        domains = [_domain(entry) for entry in report["domains"]]
        reading = Reading(report["reading"]["text_column"], TextUnit(report["reading"]["text_unit"]))
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(report_file, f"{type(error).__name__} {error}") from error
    return Scores(_read_rows(rows_file, report), domains, reading)


def files_of_scores(path: Path) -> tuple[Path, Path]:
    """scores.jsonl and scores.json of a folder, or of one of the two."""
    folder = path.parent if path.name in (ROWS_FILE, REPORT_FILE) else path
    return folder / ROWS_FILE, folder / REPORT_FILE


def _domain(entry: Mapping[str, Any]) -> Domain:
    for file in entry["files"]:
        path = Path(file["path"])
        if not path.is_file():
            raise DataError(f"{path} is gone, of which there are scores: bring it back, or score anew")
        if digest_of(path) != file["digest"]:
            raise DataError(f"{path} has changed since it was scored: score the files again")
    return Domain(entry["name"], tuple(Path(file["path"]) for file in entry["files"]))


def _read_rows(path: Path, report: Mapping[str, Any]) -> list[Scored]:
    names = {entry["name"] for entry in report["domains"]}
    rows = []
    with file_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                value = json.loads(line)
                row = Scored(*(value[key] for key in ("domain", "file", "line", "tokens", "score")))
                is_fit = row.domain in names and _is_count(row.num_tokens) and _is_count(row.line)
                is_fit = is_fit and not isinstance(row.score, bool) and math.isfinite(row.score)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise _damaged(path, f"line {number}: {type(error).__name__} {error}") from error
            if not is_fit:
                raise _damaged(path, f"line {number} holds no score: {line[:80]!r}")
            rows.append(row)
    if len(rows) != report.get("scored"):
        raise _damaged(path, f"{len(rows)} lines, and {REPORT_FILE} says {report.get('scored')}")
    return rows


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path} is damaged ({problem}): score the files again")
