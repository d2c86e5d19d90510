"""Attention over the paged cache against softmax in float64, and against itself to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from attention_reference import attention, error, expected, numbers

import ternary_kernels as tk

TOLERANCES = {"f32": 6e-6, "f16": 6e-6, "int8": 5e-4}
"""Of the largest result. A cache's rounding is no error, the reference rounds too; that of queries and
weights to 16 bits, which int8 numbers are multiplied with, is one (measured up to 2e-4)."""
BLOCK_TOKENS = 256
pytestmark = pytest.mark.usefixtures("restore_isa")


@pytest.mark.parametrize("cache", ["f32", "f16", "int8"])
@pytest.mark.parametrize("head_dim", [20, 64, 80, 128])
def test_one_token_is_softmax(head_dim, cache):
    for group, tokens in itertools.product(range(1, 9), (1, 63, 64, 65, 1000)):
        given = numbers(1, 2 * group, 2, head_dim, tokens)
        found = attention(*given, cache)
        assert error(found, expected(*given, cache)) <= TOLERANCES[cache], (group, tokens)


@pytest.mark.parametrize("cache", ["f32", "f16", "int8"])
@pytest.mark.parametrize("window", [0, 9, 33, 256])
def test_prompts_are_softmax_and_each_token_has_the_bits_it_has_alone(window, cache):
    """However tokens come together: all at once, in pieces, alone; and on any number of threads."""
    for group, head_dim, tokens, new in ((3, 64, 300, 300), (4, 80, 530, 31), (1, 48, 257, 2)):
        queries, keys, values = given = numbers(new, group, 1, head_dim, tokens)
        whole = attention(*given, cache, window)
        assert error(whole, expected(*given, cache, window)) <= TOLERANCES[cache], (group, tokens)
        for first, last, threads in ((0, 1, 2), (max(new - 30, 0), new - 1, 1), (new - 1, new, 3)):
            seen = tokens - new + last
            part = attention(queries[first:last], keys[:seen], values[:seen], cache, window, threads)
            np.testing.assert_array_equal(part, whole[first:last])


def test_every_instruction_set_agrees():
    given = numbers(20, 7, 1, 80, 600)
    for isa, state in tk.info()["instruction_sets"].items():
        if state == "available":
            tk.select_isa(isa)
            for cache in ("f32", "f16", "int8"):
                found = attention(*given, cache)
                assert error(found, expected(*given, cache)) <= TOLERANCES[cache], (isa, cache)


def test_scores_too_large_for_exp_are_softmax():
    """The largest score lies in the first block, in the last, or in all; the others' weights underflow."""
    for place in (0, 5, BLOCK_TOKENS - 1, BLOCK_TOKENS, 599):
        queries, keys, values = numbers(2, 4, 1, 64, 600)
        queries, keys = 100 * queries, 100 * keys
        keys[place] = 1e4 * np.sign(queries[-1, 0])
        found = attention(queries, keys, values)
        assert error(found, expected(queries, keys, values)) <= 1e-4
        np.testing.assert_allclose(found[-1, 0], values[place, 0], rtol=1e-6)


def test_too_large_heads_are_refused_with_int8():
    given = numbers(1, 1, 1, 514, 3)
    assert error(attention(*given), expected(*given)) <= TOLERANCES["f32"]
    message = "heads of 514 are too large for an int8 cache, which takes up to 512; take f16"
    with pytest.raises(ValueError, match=message):
        attention(*given, "int8")


@pytest.mark.parametrize(("tokens", "head_dim"), [(1, 512), (512, 512), (16_384, 64)])
def test_the_largest_heads_do_not_overflow_with_int8(tokens, head_dim, instruction_set):
    """All numbers at their largest: sums of 127 * 32767 over 512 components, and over the 256 tokens of a
    block, however many blocks there are: those are added up in float32."""
    queries, keys, values = (np.full((n, 1, head_dim), 4.0, np.float32) for n in (1, tokens, tokens))
    np.testing.assert_allclose(attention(queries, keys, values, "int8"), 4.0, rtol=1e-5)
    keys[-1] = -4.0  # scores of -1 / sqrt(512) of the others' sign
    np.testing.assert_allclose(attention(queries, keys, values, "int8"), 4.0, rtol=1e-5)


def test_a_value_of_one_token_reaches_the_rows_that_see_it_alone():
    """Exactly: a weight of zero gives nothing, whatever the value."""
    queries, keys, values = numbers(40, 2, 1, 32, 300)
    moved = values.copy()
    moved[270] += 1
    before, after = (attention(queries, keys, v, window=16) for v in (values, moved))
    rows = (before != after).any((1, 2))
    np.testing.assert_array_equal(np.flatnonzero(rows) + 260, np.arange(270, 286))
