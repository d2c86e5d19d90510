"""Near-duplicates by MinHash (Broder 1997): is a document nearly one that was seen before?

1. Words are runs of letters and digits in lower case, of scripts without spaces single characters. A document
   is the set of its runs of `shingle_words` words; a shorter one is one run.
2. MinHash estimates the Jaccard similarity of two such sets, the share of runs that they have in common, to a
   standard error of sqrt(s (1 - s) / num_permutations): 0.035 at s = 0.8.
3. Locality-sensitive hashing finds the documents whose similarity may be at least the threshold (at least
   99.5 % of the pairs of just that similarity); those of a smaller estimate are passed over.

The first of several near-duplicates stays, and later ones are compared with those that stay: of a chain a,
b, c in which neighbours are alike and the ends are not, b goes and c stays.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import rensa

from data_handler.errors import DataRequestError

K = TypeVar("K")

DEFAULT_THRESHOLD, DEFAULT_SHINGLE_WORDS = 0.8, 5
_NUM_PERMUTATIONS, _SEED = 128, 0
_BANDS, _FOUND = (4, 8, 16, 32, 64, 128), 0.995
"""What the permutations divide into; the share of pairs at the threshold that is to be found."""
_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f\u0e00-\u0eff"
_WORD = re.compile(f"[{_SINGLE}]|[^\\W{_SINGLE}]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class DuplicateRule:
    """When two documents count as the same."""

    threshold: float = DEFAULT_THRESHOLD
    shingle_words: int = DEFAULT_SHINGLE_WORDS

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise DataRequestError(
                f"the threshold is {self.threshold:g}; give a similarity above 0 and at most 1, such as 0.8"
            )
        if self.shingle_words < 1:
            raise DataRequestError(f"shingles of {self.shingle_words} words; give at least 1")


class Twin(NamedTuple, Generic[K]):
    """A document that was seen before, and the estimated similarity."""

    key: K
    similarity: float


def shingles(text: str, num_words: int) -> npt.NDArray[np.uint32]:
    """Hashes of the distinct runs of words, sorted; the same on every machine."""
    words = _WORD.findall(text.lower()) or [text.strip()]
    hashes = np.array([zlib.crc32(word.encode()) for word in words], np.uint64)
    length = min(num_words, len(hashes))
    count = len(hashes) - length + 1
    combined = np.zeros(count, np.uint64)
    for place in range(length):
        combined = (combined + hashes[place : place + count] + np.uint64(1)) * _MULTIPLIER
        combined ^= combined >> np.uint64(29)
    return np.unique((combined >> np.uint64(32)).astype(np.uint32))


class NearDuplicates(Generic[K]):
    """Documents by key, those that are like an earlier one left out."""

    def __init__(self, rule: DuplicateRule) -> None:
        self._rule = rule
        bands = _num_bands(rule.threshold)
        self._index = rensa.RMinHashLSH(threshold=rule.threshold, num_perm=_NUM_PERMUTATIONS, num_bands=bands)
        self._signatures: list[Any] = []
        self._keys: list[K] = []

    def __len__(self) -> int:
        return len(self._keys)

    def twin_or_add(self, text: str, key: K) -> Twin[K] | None:
        """The document most like the text, of the first ones; None: there is none, and the text is added."""
        signature = rensa.RMinHash(num_perm=_NUM_PERMUTATIONS, seed=_SEED)
        hashes = shingles(text, self._rule.shingle_words)
        signature.update([hashes[place : place + 1].tobytes() for place in range(len(hashes))])
        twins = [(self._signatures[n].jaccard(signature), -n) for n in self._index.query(signature)]
        similarity, number = max(twins, default=(0.0, 0))
        if similarity >= self._rule.threshold:
            return Twin(self._keys[-number], similarity)
        self._index.insert(len(self._keys), signature)
        self._signatures.append(signature)
        self._keys.append(key)
        return None


def _num_bands(threshold: float) -> int:
    """The fewest bands by which nearly all pairs of the threshold's similarity are found: of more, more
    pairs are compared that turn out to differ."""
    for bands in _BANDS:
        rows = _NUM_PERMUTATIONS // bands
        if 1 - (1 - threshold**rows) ** bands >= _FOUND:
            return bands
    return _BANDS[-1]
