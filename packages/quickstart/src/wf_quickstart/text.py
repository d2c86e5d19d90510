"""Text to train on and text to measure on that never meet.

The default is the language reference that every Python has (`pydoc_data.topics`, about 80 topics).
1. One topic in six (by a hash of its name) is held out. Of the user's files the last tenth is.
2. Topics quote each other, so a training paragraph that also stands in the held-out part is dropped.
3. The training text is cut into pieces of about `_PIECE_CHARS` at paragraphs and shuffled: with short
   sequences, neighbouring steps would otherwise see one topic and pull the model to and fro.
Paragraphs shorter than `_QUOTE_CHARS` (headings, single signatures) may stand in both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_handler.errors import DataError
from data_handler.readers import read_documents
from wf_formats.atomic import atomic_write_text
from wf_quickstart.errors import QuickstartError

_HELD_OUT_ONE_IN = 6
_QUOTE_CHARS = 60
_PIECE_CHARS = 1000
_MIN_TRAIN_CHARS = 40_000
_MIN_HELD_OUT_CHARS = 4_000


@dataclass(frozen=True)
class Corpus:
    train: list[str]
    held_out: list[str]
    num_dropped_chars: int
    """Left out of `train` because it also stands in `held_out`."""


def python_reference() -> Corpus:
    """The topics of this Python's language reference."""
    from pydoc_data.topics import topics

    held_out = [topics[name] for name in sorted(topics) if _is_held_out(name)]
    train = [topics[name] for name in sorted(topics) if not _is_held_out(name)]
    return _without_quotes(train, held_out)


def user_texts(paths: Sequence[Path]) -> Corpus:
    """The last tenth (by characters, at a paragraph) of each file is held out.

    Args:
        paths: .txt; or .jsonl, .jsonl.gz and .parquet with the field `text`, a document a record.

    Raises:
        QuickstartError: a file cannot be read as text, or there is too little of it.
    """
    train, held_out = [], []
    for path in paths:
        paragraphs = _read(path)
        cut = _cut(paragraphs)
        train.append("\n\n".join(paragraphs[:cut]))
        held_out.append("\n\n".join(paragraphs[cut:]))
    corpus = _without_quotes(train, held_out)
    for part, texts, least in (
        ("training", corpus.train, _MIN_TRAIN_CHARS),
        ("held-out", corpus.held_out, _MIN_HELD_OUT_CHARS),
    ):
        if (found := sum(map(len, texts))) < least:
            raise QuickstartError(
                f"--text: the {part} part has {found:,} characters, at least {least:,} are needed "
                "(paragraphs are separated by blank lines or records; the last tenth of each file is held "
                "out, and what it repeats is not trained on)"
            )
    return corpus


def write_corpus(corpus: Corpus, train: Path, held_out: Path) -> dict[str, int]:
    """Writes two jsonl files (field `text`); returns their sizes for the report."""
    for path, documents in ((train, corpus.train), (held_out, corpus.held_out)):
        atomic_write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in documents))
    return {
        "train_documents": len(corpus.train),
        "train_chars": sum(map(len, corpus.train)),
        "held_out_documents": len(corpus.held_out),
        "held_out_chars": sum(map(len, corpus.held_out)),
        "dropped_chars": corpus.num_dropped_chars,
    }


def _is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % _HELD_OUT_ONE_IN == 0


def _paragraphs(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if part.strip()]


def _key(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _without_quotes(train: list[str], held_out: list[str]) -> Corpus:
    known = {_key(part) for text in held_out for part in _paragraphs(text)}
    known = {key for key in known if len(key) >= _QUOTE_CHARS}
    kept = []
    for text in train:
        kept.append("\n\n".join(part for part in _paragraphs(text) if _key(part) not in known))
    dropped = sum(map(len, train)) - sum(map(len, kept))
    return Corpus(_shuffled_pieces(kept), [text for text in held_out if text], dropped)


def _shuffled_pieces(texts: list[str]) -> list[str]:
    """The same order on every machine: sorted by a hash."""
    pieces = []
    for text in texts:
        piece: list[str] = []
        for paragraph in _paragraphs(text):
            piece.append(paragraph)
            if sum(map(len, piece)) >= _PIECE_CHARS:
                pieces.append("\n\n".join(piece))
                piece = []
        pieces += ["\n\n".join(piece)] if piece else []
    return sorted(pieces, key=lambda piece: hashlib.sha256(piece.encode()).digest())


def _read(path: Path) -> list[str]:
    """The paragraphs of a file's documents."""
    try:
        return [paragraph for document in read_documents(path) for paragraph in _paragraphs(document)]
    except DataError as error:
        raise QuickstartError(f"--text: {error}") from error


def _cut(paragraphs: list[str]) -> int:
    """Index of the first held-out paragraph."""
    total, seen = sum(map(len, paragraphs)), 0
    for index, part in enumerate(paragraphs):
        seen += len(part)
        if seen > 0.9 * total:
            return index
    return len(paragraphs)
