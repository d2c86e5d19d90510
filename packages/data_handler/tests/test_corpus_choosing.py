"""Scores on the disk, the best share of the tokens, and the file of what was chosen."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_handler import DataError, DataRequestError
from data_handler.corpus.choosing import choose, write_chosen
from data_handler.corpus.domains import Domain, Reading, parse_domains
from data_handler.corpus.score_file import (
    BY_DOCUMENT,
    BY_DOMAIN,
    REPORT_FILE,
    ROWS_FILE,
    Scored,
    described_files,
    read_scores,
)


def rows(scores: list[float], tokens: list[int], domain: str = "a") -> list[Scored]:
    return [
        Scored(domain, f"{domain}.jsonl", n, count, score)
        for n, (score, count) in enumerate(zip(scores, tokens, strict=True), 1)
    ]


def test_the_best_of_the_tokens_are_chosen() -> None:
    scored = rows([0.1, 0.9, 0.5, -0.2], [100, 100, 200, 600])
    assert [one.line for one in choose(scored, 0.3)] == [2, 3]
    assert [one.line for one in choose(scored, 1.0)] == [2, 3, 1, 4]
    assert [one.line for one in choose(scored, 0.001)] == [2]


def test_shares_by_domain_keep_every_domain() -> None:
    scored = rows([3, 2, 1], [10, 10, 10], "good") + rows([-1, -2, -3], [10, 10, 10], "bad")
    assert {one.domain for one in choose(scored, 0.5)} == {"good"}
    by_domain = choose(scored, 1 / 3, by_domain=True)
    assert [(one.domain, one.line) for one in by_domain] == [("good", 1), ("bad", 1)]


def test_ties_do_not_go_by_the_order_of_the_files() -> None:
    scored = [Scored(name, name, line, 10, 0.0) for name in ("a", "b") for line in range(50)]
    chosen = choose(scored, 0.5)
    assert {one.domain for one in chosen} == {"a", "b"}
    assert sorted(chosen) == sorted(choose(scored[::-1], 0.5))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 1000)), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
def test_the_share_is_met_to_half_of_a_document(values: list[tuple[float, int]], share: float) -> None:
    scored = rows([score for score, _ in values], [count for _, count in values])
    chosen = choose(scored, share)
    wanted = share * sum(one.num_tokens for one in scored)
    taken = sum(one.num_tokens for one in chosen)
    left = [one for one in scored if one not in chosen]
    if len(chosen) > 1 and left:
        assert abs(taken - wanted) <= max(one.num_tokens for one in scored) / 2
    if left:
        assert min(one.score for one in chosen) >= max(one.score for one in left)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_outside_is_refused(share: float) -> None:
    with pytest.raises(DataRequestError, match=r"share is .*above 0 and at most 1"):
        choose(rows([1], [1]), share)


@pytest.fixture
def scored_folder(tmp_path: Path) -> Path:
    """Scores of two files: of document n of `a` n, of `b` minus that; all have 10 tokens."""
    for name, count in (("a", 30), ("b", 10)):
        lines = "".join(json.dumps({"n": n, "text": f"{name} {n}"}) + "\n" for n in range(count))
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    domains = parse_domains([str(tmp_path / "a.jsonl.gz"), str(tmp_path / "b.jsonl.gz")])
    found = [
        Scored(domain.name, str(domain.files[0]), line, 10, line if domain.name == "a" else -line)
        for domain, count in zip(domains, (30, 10), strict=True)
        for line in range(1, count + 1)
    ]
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / ROWS_FILE).write_text("".join(json.dumps(row.to_json()) + "\n" for row in found))
    report = {
        "by": BY_DOCUMENT,
        "reading": asdict(Reading()),
        "scored": len(found),
        "domains": [{"name": domain.name, "files": described_files(domain)} for domain in domains],
    }
    (folder / REPORT_FILE).write_text(json.dumps(report))
    return folder


@pytest.mark.parametrize("inside", ["", ROWS_FILE, REPORT_FILE])
def test_scores_are_read_from_the_folder_or_its_files(scored_folder: Path, inside: str) -> None:
    found = read_scores(scored_folder / inside)
    assert len(found.rows) == 40
    assert [domain.name for domain in found.domains] == ["a", "b"]


@pytest.mark.parametrize("is_packed", [False, True])
def test_what_was_chosen_is_written_mixed_and_as_it_stood(
    scored_folder: Path, tmp_path: Path, is_packed: bool
) -> None:
    found = read_scores(scored_folder)
    chosen = choose(found.rows, 0.5, by_domain=True)
    target = tmp_path / "chosen"
    write_chosen(chosen, found.domains, found.reading, target, is_packed=is_packed)
    data = target.read_bytes()
    values = [json.loads(line) for line in (gzip.decompress(data) if is_packed else data).splitlines()]
    of_a, of_b = ([v["n"] for v in values if v["text"].startswith(name)] for name in ("a", "b"))
    assert (of_a, of_b) == (list(range(15, 30)), list(range(5)))
    share = np.cumsum([value["text"].startswith("a") for value in values]) / np.arange(1, len(values) + 1)
    assert np.abs(share[3:] - 0.75).max() <= 0.25  # three of `a` for one of `b`, all along


def test_files_that_changed_since_are_refused(scored_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    before = path.read_bytes()
    path.write_bytes(gzip.compress(b'{"text": "other"}\n'))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz has changed since it was scored"):
        read_scores(scored_folder)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is gone"):
        read_scores(scored_folder)
    path.write_bytes(before)
    assert read_scores(scored_folder).rows


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nothing",
        "[]",
        '{"domain": "a"}',
        '{"domain": "c", "file": "x", "line": 1, "tokens": 1, "score": 1}',
        '{"domain": "a", "file": "x", "line": 1, "tokens": 0, "score": 1}',
        '{"domain": "a", "file": "x", "line": 1, "tokens": 1, "score": NaN}',
        '{"domain": "a", "file": "x", "line": 1, "tokens": 1, "score": "high"}',
        '{"domain": "a", "file": "x", "line": 1, "tokens": 1, "score": true}',
        f'{{"domain": "a", "file": "x", "line": 1, "tokens": 1, "score": 1{"0" * 400}}}',
        '{"domain": "a", "file": "x", "line": 1, "tokens": Infinity, "score": 1}',
        '{"domain": "a", "file": "x", "line": true, "tokens": 1, "score": 1}',
    ],
)
def test_damaged_scores_are_named(scored_folder: Path, line: str) -> None:
    path = scored_folder / ROWS_FILE
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=rf"{ROWS_FILE} is damaged"):
        read_scores(scored_folder)


def test_scores_that_were_cut_off_are_noticed(scored_folder: Path) -> None:
    path = scored_folder / ROWS_FILE
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(DataError, match=r"37 lines, and scores\.json says 40"):
        read_scores(scored_folder)


def test_what_holds_no_scores_of_documents_is_refused(scored_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRequestError, match="holds no scores"):
        read_scores(tmp_path)
    path = scored_folder / REPORT_FILE
    path.write_text(path.read_text().replace(f'"{BY_DOCUMENT}"', f'"{BY_DOMAIN}"'))
    with pytest.raises(DataRequestError, match="scores of domains"):
        read_scores(scored_folder)
    path.write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        read_scores(scored_folder)


def test_a_document_that_is_not_there_is_named(scored_folder: Path, tmp_path: Path) -> None:
    found = read_scores(scored_folder)
    file = str(found.domains[0].files[0])
    with pytest.raises(DataError, match="has no document in line 99"):
        write_chosen(
            [Scored("a", file, 99, 10, 1.0)],
            [Domain("a", found.domains[0].files)],
            found.reading,
            tmp_path / "x",
            is_packed=False,
        )
