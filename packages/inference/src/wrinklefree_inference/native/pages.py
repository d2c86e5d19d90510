"""Who owns which page of the key-value cache, and which pages hold a prefix that may come again.

A page is free, used (at least one running sequence lists it) or cached (nobody lists it, but its
tokens are known, so that a later prompt with the same beginning can take it over). Full pages are
known by a digest of all tokens from the start of the text to the page's end: two texts with the same
beginning share them. Cached pages go, least recently used first, when free ones run out; a chain is
given back from its end, so a page never outlives the pages before it.

Cost: about 1.5 us per page looked up. Nothing here touches the keys and values themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from wf_formats.kernel_sizes import PAGE_TOKENS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def pages_for(num_tokens: int) -> int:
    """Pages that hold `num_tokens`."""
    return -(-num_tokens // PAGE_TOKENS)


def extend_digests(digests: list[bytes], tokens: NDArray[np.int32]) -> None:
    """Append the digests of the full pages of `tokens` that `digests` does not have yet.

    A cryptographic hash, because a collision would show one client another's conversation.
    """
    parent = digests[-1] if digests else b""
    for start in range(len(digests) * PAGE_TOKENS, len(tokens) - PAGE_TOKENS + 1, PAGE_TOKENS):
        page = tokens[start : start + PAGE_TOKENS].tobytes()
        parent = blake2b(parent + page, digest_size=16).digest()
        digests.append(parent)


class PageCache:
    """All pages of one decoder."""

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ValueError(f"num_pages must be at least 1, got {num_pages}")
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages
        self._digest_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()  # cached pages, least recently used first

    @property
    def num_available(self) -> int:
        """Pages that `take` could give."""
        return len(self._free) + len(self._unused)

    @property
    def num_cached(self) -> int:
        """Pages that nobody uses, kept for their prefix."""
        return len(self._unused)

    @property
    def num_used(self) -> int:
        """Pages of running sequences; a shared one counts once."""
        return self.num_pages - self.num_available

    def has(self, digest: bytes) -> bool:
        """Whether a page with this text is there."""
        return digest in self._page_of

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """Take the longest known chain that `digests` begins with."""
        pages = []
        for digest in digests:
            page = self._page_of.get(digest)
            if page is None:
                break
            self._unused.pop(page, None)
            self._references[page] += 1
            pages.append(page)
        return pages

    def take(self, count: int) -> list[int]:
        """Pages of one's own, cached ones given up if need be; there must be `num_available` of them."""
        assert count <= self.num_available, f"{count} pages asked for, {self.num_available} available"
        while len(self._free) < count:
            page, _ = self._unused.popitem(last=False)
            del self._page_of[self._digest_of.pop(page)]
            self._free.append(page)
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._references[page] = 1
        return pages

    def publish(self, page: int, digest: bytes) -> int:
        """Make a computed full page findable.

        Returns:
            The page to list from now on: another one if somebody computed the same page meanwhile
            (their bits are equal); `page` is then given back.
        """
        known = self._page_of.setdefault(digest, page)
        if known == page:
            self._digest_of[page] = digest
            return page
        self._unused.pop(known, None)
        self._references[known] += 1
        self.release([page])
        return known

    def release(self, pages: Sequence[int]) -> None:
        """Give back one reference to each page, in the order of the text."""
        for page in reversed(pages):
            assert self._references[page] > 0, f"page {page} was released twice"
            self._references[page] -= 1
            if self._references[page] == 0:
                if page in self._digest_of:
                    self._unused[page] = None
                else:
                    self._free.append(page)
