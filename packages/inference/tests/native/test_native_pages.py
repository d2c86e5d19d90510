"""The page cache against its own books and against what may be shared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wf_formats.kernel_sizes import PAGE_TOKENS
from wrinklefree_inference.native.pages import PageCache, extend_digests, pages_for


def digests_of(tokens):
    digests = []
    extend_digests(digests, np.asarray(tokens, np.int32))
    return digests


def test_pages_for():
    assert [pages_for(n) for n in (0, 1, 32, 33, 64)] == [0, 1, 1, 2, 2]


def test_a_cache_has_pages():
    with pytest.raises(ValueError, match="num_pages must be at least 1, got 0"):
        PageCache(0)


def test_digests_depend_on_all_that_stands_before():
    first, second = np.arange(96), np.arange(96)
    second[3] = 7
    assert len(digests_of(first[:95])) == 2
    assert not set(digests_of(first)) & set(digests_of(second))
    assert digests_of(first[:70]) == digests_of(first)[:2]


def test_digests_are_extended_in_place():
    tokens = np.arange(128, dtype=np.int32)
    digests = digests_of(tokens[:40])
    extend_digests(digests, tokens)
    assert digests == digests_of(tokens)


def test_a_released_prefix_is_found_again(toy):
    cache, digests = PageCache(4), digests_of(range(96))
    pages = cache.take(3)
    for page, digest in zip(pages, digests, strict=True):
        assert cache.publish(page, digest) == page
    cache.release(pages)
    assert (cache.num_used, cache.num_cached, cache.num_available) == (0, 3, 4)
    assert cache.match(digests[:2]) == pages[:2]
    toy.check_pages(cache, [pages[:2]])


def test_the_end_of_the_oldest_chain_goes_first():
    cache = PageCache(4)
    chains = [digests_of(np.arange(64) + i) for i in range(2)]
    for chain in chains:
        pages = cache.take(2)
        for page, digest in zip(pages, chain, strict=True):
            cache.publish(page, digest)
        cache.release(pages)
    cache.take(1)
    assert [cache.has(digest) for digest in chains[0]] == [True, False]
    cache.take(1)
    assert [cache.has(digest) for chain in chains for digest in chain] == [False, False, True, True]


def test_a_page_computed_twice_is_kept_once(toy):
    cache, digest = PageCache(3), digests_of(range(32))[0]
    first, second = cache.take(2)
    assert cache.publish(first, digest) == first
    assert cache.publish(second, digest) == first
    toy.check_pages(cache, [[first], [first]])
    cache.release([first])
    cache.release([first])
    assert cache.publish(cache.take(1)[0], digest) == first
    toy.check_pages(cache, [[first]])


def test_misuse_is_caught():
    cache = PageCache(2)
    pages = cache.take(2)
    with pytest.raises(AssertionError, match="1 pages asked for, 0 available"):
        cache.take(1)
    cache.release(pages)
    with pytest.raises(AssertionError, match="released twice"):
        cache.release(pages)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=40), st.randoms(use_true_random=False)
)
def test_books_agree_after_any_history(toy, steps, random):
    cache, owned = PageCache(8), []
    for kind, length in steps:
        digests = digests_of(np.arange(PAGE_TOKENS * length) // (PAGE_TOKENS * 2) + kind)
        if owned and random.random() < 0.4:
            cache.release(owned.pop(random.randrange(len(owned))))
        else:
            pages = cache.match(digests)
            if length - len(pages) > cache.num_available:
                cache.release(pages)
            else:
                pages += cache.take(length - len(pages))
                owned.append([cache.publish(*pair) for pair in zip(pages, digests, strict=True)])
        toy.check_pages(cache, owned)
    for pages in owned:
        cache.release(pages)
    assert cache.num_used == 0
