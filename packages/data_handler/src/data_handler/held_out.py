"""Documents that must not be trained on: known by a hash of their text, refused or passed over where read.

Two documents are the same if their texts are, up to white space, case and forms of one character (NFKC). A
document that stands inside of a larger one is not found, nor one with a changed word.

Hashing reads 20 to 40 MB of text a second, where tokenizing takes in about 2.5.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from data_handler.errors import HeldOutError

_HASH_BYTES = 16


class PlacedText(NamedTuple):
    """A document and where it is, e.g. `wiki.jsonl, line 3`."""

    text: str
    where: str


def text_hash(text: str) -> str:
    """Equal for texts that are the same up to white space, case and forms of characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    words = " ".join(text.casefold().split())
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()


class HeldOut:
    """What a loader keeps out of training.

    Args:
        sets: documents by the name of the set that they belong to; those without a word are left out.
        drop: pass over a document of a set (counted and placed as bad records are, `loader.skipped()`);
            False: it ends the run.
    """

    def __init__(self, sets: Mapping[str, Iterable[PlacedText]], drop: bool = False) -> None:
        self.drop = drop
        self._known = {
            text_hash(document.text): f"{name!r} ({document.where})"
            for name, documents in sets.items()
            for document in documents
            if document.text.strip()
        }

    def digest(self) -> str:
        """Of what is held out, the same in every order; a loader's state fits the same only."""
        return hashlib.sha256(repr((self.drop, sorted(self._known))).encode()).hexdigest()[:16]

    def check(self, document: PlacedText) -> None:
        """Raises: HeldOutError naming the set and both places."""
        if (known := self._known.get(text_hash(document.text))) is not None:
            raise HeldOutError(
                f"{document.where}: this document is held out of training by the set {known}; take it out of "
                f"one of them{'' if self.drop else ', or pass over such documents (drop)'}",
                document.where,
            )
