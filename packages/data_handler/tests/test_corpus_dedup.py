"""Near-duplicates: what counts as one, and files without them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from data_handler import DataError, DataRequestError
from data_handler.corpus.deduplicating import DROPPED_FILE, REPORT_FILE, deduplicate
from data_handler.corpus.domains import Reading, parse_domains
from data_handler.corpus.near_duplicates import DuplicateRule, NearDuplicates, shingles


def words(num_words: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [f"w{generator.randrange(10_000)}" for _ in range(num_words)]


def with_changes(text: list[str], every: int) -> list[str]:
    """Each `every`-th word another."""
    return [f"x{place}" if place % every == 0 else word for place, word in enumerate(text)]


def jaccard(left: str, right: str, num_words: int = 5) -> float:
    """By sets of tuples of words: another way than hashes."""

    def runs(text: str) -> set[tuple[str, ...]]:
        split = text.split()
        return {tuple(split[place : place + num_words]) for place in range(len(split) - num_words + 1)}

    return len(runs(left) & runs(right)) / len(runs(left) | runs(right))


def test_similarity_is_that_of_runs_of_words() -> None:
    for every in (20, 60, 200):
        first = words(1000, seed=every)
        left, right = " ".join(first), " ".join(with_changes(first, every))
        seen: NearDuplicates[str] = NearDuplicates(DuplicateRule(threshold=0.05))
        assert seen.twin_or_add(left, "left") is None
        twin = seen.twin_or_add(right, "right")
        assert twin is not None
        assert twin.key == "left"
        assert twin.similarity == pytest.approx(jaccard(left, right), abs=0.12)  # three standard errors


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_the_threshold_decides(threshold: float) -> None:
    """Pairs well above it are found, pairs well below are not, whatever the hashing takes for candidates."""
    found = {0: 0, 1: 0}
    for seed in range(30):
        first = words(400, seed)
        for side, similarity in enumerate((threshold - 0.2, min(0.99, threshold + 0.2))):
            # one changed word spoils five runs of n: (n - 5k) / (n + 5k) is the similarity
            changes = max(1, round(400 * (1 - similarity) / (5 * (1 + similarity))))
            seen: NearDuplicates[int] = NearDuplicates(DuplicateRule(threshold=threshold))
            seen.twin_or_add(" ".join(first), 0)
            twin = seen.twin_or_add(" ".join(with_changes(first, 400 // changes)), 1)
            found[side] += twin is not None
    assert found[0] <= 1
    assert found[1] >= 29


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("The Cat sat, on the mat!", "the cat sat on THE mat"),
        ("short", "Short."),
        ("!!!", " !!! "),
        ("一二三四五六七", "一二三四五六七。"),
    ],
)
def test_case_punctuation_and_space_do_not_count(left: str, right: str) -> None:
    assert shingles(left, 5).tolist() == shingles(right, 5).tolist()


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    assert len(shingles("一二三四五六七", 5)) == 3
    assert len(shingles("one two three four five six seven", 5)) == 3


def test_of_several_copies_the_first_stays_and_stands_for_the_others() -> None:
    seen: NearDuplicates[int] = NearDuplicates(DuplicateRule())
    texts = [" ".join(words(100, seed)) for seed in (1, 1, 2, 1)]
    twins = [seen.twin_or_add(text, number) for number, text in enumerate(texts)]
    assert [twin and (twin.key, twin.similarity) for twin in twins] == [None, (0, 1.0), None, (0, 1.0)]
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("threshold", "num_words", "message"),
    [
        (0.0, 5, "threshold is 0;"),
        (1.5, 5, "threshold is 1.5"),
        (float("nan"), 5, "nan"),
        (0.8, 0, "0 words"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(threshold: float, num_words: int, message: str) -> None:
    with pytest.raises(DataRequestError, match=message):
        DuplicateRule(threshold, num_words)


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    """Two domains, packed and plain; the third of `web` is nearly the first of `books`, the last a copy."""
    texts = [" ".join(words(300, seed)) for seed in range(5)]
    near = " ".join(with_changes(texts[0].split(), 150))
    books, web = tmp_path / "books.jsonl.gz", tmp_path / "web.jsonl"
    books.write_bytes(
        gzip.compress(b"".join(json.dumps({"id": n, "text": texts[n]}).encode() + b"\n" for n in (0, 1)))
    )
    rows = [{"text": texts[2]}, {"text": texts[3]}, {"text": near}, {"text": texts[4]}, {"text": texts[2]}]
    web.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(books), str(web)]


def test_copies_are_left_out_within_and_across_files(corpus: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    read = []
    counts = deduplicate(parse_domains(corpus), Reading(), DuplicateRule(), folder, read.append)
    assert [(c.name, c.documents, c.kept_documents, c.twins_in) for c in counts] == [
        ("books", 2, 2, {}),
        ("web", 5, 3, {"books": 1, "web": 1}),
    ]
    assert len(read) == 7
    assert gzip.decompress((folder / "text/books.jsonl.gz").read_bytes()) == gzip.decompress(
        Path(corpus[0]).read_bytes()
    )
    lines = Path(corpus[1]).read_bytes().splitlines(keepends=True)
    assert (folder / "text/web.jsonl").read_bytes() == lines[0] + lines[1] + lines[3]
    dropped = [json.loads(line) for line in (folder / DROPPED_FILE).read_text().splitlines()]
    assert [(row["file"], row["line"], row["twin"]["file"], row["twin"]["line"]) for row in dropped] == [
        (corpus[1], 3, corpus[0], 1),
        (corpus[1], 5, corpus[1], 1),
    ]
    assert dropped[1]["similarity"] == 1.0
    assert 0.8 <= dropped[0]["similarity"] < 1.0
    report = json.loads((folder / REPORT_FILE).read_text())
    assert sorted(report["files"]) == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def test_a_domain_of_copies_alone_has_no_file(corpus: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    copy = tmp_path / "copy.jsonl.gz"
    copy.write_bytes(Path(corpus[0]).read_bytes())
    counts = deduplicate(
        parse_domains([corpus[0], str(copy)]), Reading(), DuplicateRule(), folder, lambda document: None
    )
    assert (counts[1].kept_documents, counts[1].file) == (0, None)
    assert [path.name for path in (folder / "text").iterdir()] == ["books.jsonl.gz"]


def test_the_files_are_the_same_bytes_each_time(corpus: list[str], tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        deduplicate(parse_domains(corpus), Reading(), DuplicateRule(), folder, lambda document: None)
        written.append([path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()])
    assert written[0] == written[1]


def test_an_empty_file_is_named(corpus: list[str], tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    folder, empty = tmp_path / "out", tmp_path / "empty.jsonl"
    folder.mkdir()
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.jsonl is empty"):
        deduplicate(
            parse_domains([corpus[0], str(empty)]), Reading(), DuplicateRule(), folder, lambda document: None
        )
