"""Numbers beyond those of float16, and NaN and infinity: what is rounded, and what becomes NaN of whom."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from attention_reference import attention, error, expected, numbers

import ternary_kernels as tk
from ternary_kernels import _native

CACHES = ["f32", "f16", "int8"]
NO_NUMBERS = [np.nan, -np.nan, np.inf, -np.inf]
pytestmark = pytest.mark.usefixtures("instruction_set")


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("head_dim", [16, 20, 64])
@pytest.mark.parametrize("size", [7e4, 1e6, 1e30])
def test_keys_and_values_beyond_float16_are_as_large_as_it_holds(size, head_dim, cache):
    """Against softmax in float64 of what the cache can hold: f16 +-65504, the others all."""
    queries, keys, values = numbers(9, 4, 2, head_dim, 300)
    keys[::3] *= np.float32(size)
    values[1::2] *= np.float32(size)
    queries /= np.float32(size)  # or one token would take all
    found = attention(queries, keys, values, cache)
    if cache == "f16":
        keys, values = (np.clip(x, -65504, 65504) for x in (keys, values))
    assert (
        error(found, expected(queries, keys, values, cache))
        <= {"f32": 1e-5, "f16": 1e-5, "int8": 2e-3}[cache]
    )


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("value", [1e6, 3e38, *NO_NUMBERS])
@pytest.mark.parametrize("part", ["key", "value"])
@pytest.mark.parametrize(("window", "threads"), [(0, 1), (0, 2), (16, 1)])
def test_a_token_reaches_the_rows_that_see_it_alone(window, threads, part, value, cache):
    """The others keep their bits; those that see what is no number have none."""
    queries, keys, values = numbers(40, 2, 1, 32, 300)
    before = attention(queries, keys, values, cache, window, threads)
    (keys if part == "key" else values)[270, 0, 5] = value
    after = attention(queries, keys, values, cache, window, threads)
    seeing = np.arange(10, 10 + window if window else 40)
    others = np.setdiff1d(np.arange(40), seeing)
    np.testing.assert_array_equal(after[others], before[others])
    if not np.isfinite(value):
        assert np.isnan(after[seeing]).all()
    elif part == "value" or abs(value) < 1e7:
        assert np.isfinite(after[seeing]).all()


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("tokens", [1, 256, 600])
def test_a_row_that_sees_nothing_else_is_no_number_either(tokens, cache):
    """Blocks that have no score that is a number are not left out."""
    queries, keys, values = numbers(1, 2, 1, 32, tokens)
    for place in (slice(None), slice(0, 1), slice(0, 256), slice(256, 512), slice(tokens - 1, None)):
        spoilt = keys.copy()
        spoilt[place] = np.nan
        has_some = np.isnan(spoilt).any()
        assert np.isnan(attention(queries, spoilt, values, cache)).all() == has_some


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_query_that_is_no_number_is_its_row_s_alone(value, cache):
    queries, keys, values = numbers(9, 4, 2, 64, 70)
    before = attention(queries, keys, values, cache)
    queries[3, 1, 7] = value
    after = attention(queries, keys, values, cache)
    assert np.isnan(after[3, 1]).all()
    after[3, 1] = before[3, 1]
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("cache", CACHES)
def test_queries_of_any_size(cache):
    """The inverse of the smallest floats is infinite, and of their weights nothing is left but the mean."""
    queries, keys, values = numbers(1, 1, 1, 16, 40)
    mean = values.mean(0, dtype=np.float64)
    for size in (1e-45, 1e-38, 1e-36, 1e-33):
        found = attention(np.full_like(queries, size), keys, values, cache)
        np.testing.assert_allclose(found[0], mean, atol=2e-2)


@pytest.mark.parametrize("precision", ["int8", "wide"])
@pytest.mark.parametrize("format", ["t2", "t5", "q4", "q8"])
@pytest.mark.parametrize("group", [0, 64])
def test_inputs_that_are_no_numbers_give_none(group, format, precision):
    """Of their token alone, wherever in it they stand; on the vectors and behind the last."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (20, 192)).astype(np.int8)
    scales = np.ones((20, 3) if group else 20, np.float32)
    matrix = _native.pack(codes, scales, format)
    x = rng.standard_normal((7, 192), np.float32)
    before = matrix.linear(x, precision, num_threads=1)
    for value, place in zip(NO_NUMBERS, (0, 17, 100, 191), strict=True):
        spoilt = x.copy()
        spoilt[4, place] = value
        after = matrix.linear(spoilt, precision, num_threads=1)
        assert np.isnan(after[4]).all(), (value, place)
        np.testing.assert_array_equal(np.delete(after, 4, 0), np.delete(before, 4, 0))


@pytest.mark.parametrize("kernel", ["quantize", "rms_norm", "silu_gate", "relu2_gate", "rope"])
@pytest.mark.parametrize("size", [2, 64, 70])
def test_no_kernel_makes_a_number_of_nan(size, kernel):
    x = np.random.default_rng(0).standard_normal((3, size), np.float32)
    y = np.ones({"quantize": 0, "silu_gate": 3 * size, "relu2_gate": 3 * size}.get(kernel, size), np.float32)
    for place in (0, size // 2, size - 1):
        spoilt = x.copy()
        spoilt[1, place] = np.nan
        found = _native.time_rows(kernel, spoilt, y, repeats=1)[0]
        assert np.isnan(found[1, place]), place
        assert np.isfinite(found[[0, 2]]).all()
    if kernel in ("quantize", "rms_norm"):
        assert np.isnan(found[1]).all()


def test_a_norm_of_squares_beyond_float32_is_no_number():
    """Its factor would be zero, and so would all of the row."""
    x = np.full((1, 64), 1e20, np.float32)
    assert np.isnan(_native.time_rows("rms_norm", x, np.ones(64, np.float32), repeats=1)[0]).all()


def model_with_a_token(size: float) -> SimpleNamespace:
    """A random model of one layer, whose token 9 has an embedding of that size."""
    rng = np.random.default_rng(1)

    def matrix(rows, cols):
        return tk.pack_ternary(rng.integers(-1, 2, (rows, cols)).astype(np.int8), np.float32(0.1))

    ones = np.ones(32, np.float32)
    sizes = dict.fromkeys("qo", (32, 32)) | dict.fromkeys("kv", (16, 32))
    sizes |= dict.fromkeys(("gate", "up"), (48, 32)) | {"down": (32, 48)}
    layer = tk.LayerWeights(ones, ones, **{name: matrix(*shape) for name, shape in sizes.items()})
    scales = np.full((16, 1), 0.01, np.float32)
    scales[9] = size / 127
    config = tk.DecoderConfig(
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        vocab_size=16,
        rms_norm_eps=1e-5,
        activation="silu",
        attention=(tk.LayerAttention(tk.Rope(tuple(10000.0 ** (-i / 8) for i in range(8)))),) * 2,
        attention_scale=0.25,
        context_tokens=512,
    )
    embedding = tk.pack_groups(rng.integers(-127, 128, (16, 32)).astype(np.int8), scales, 8)
    return tk.ModelWeights(config, embedding, None, ones, [layer, dataclasses.replace(layer)])


def logits(decoder, tokens, context, pages, rows):
    arrays = ([0, len(tokens)], [context], [pages], rows)
    return decoder.forward(np.array(tokens, np.int32), *(np.array(array, np.int32) for array in arrays))


@pytest.mark.parametrize("cache", ["f16", "int8"])
def test_a_sequence_that_overflows_leaves_nothing_to_the_next_on_its_pages(cache):
    """Token 9 overflows the norm: NaN from there on, to the end, and the tokens before it as without it."""
    weights = model_with_a_token(1e30)
    text, pages = [1, 2, 3, 4, 5, 9, 6, 7] * 8, [0, 1]
    decoder, fresh = (tk.Decoder(weights, 2, cache, 1) for _ in range(2))
    spoilt = logits(decoder, text, 0, pages, range(64))
    assert np.isnan(spoilt[5:]).all()
    np.testing.assert_array_equal(spoilt[:5], logits(fresh, text[:5], 0, pages, range(5)))
    after = logits(decoder, [1, 2, 3] * 11, 0, pages, range(33))  # ends within the second page
    np.testing.assert_array_equal(after, logits(fresh, [1, 2, 3] * 11, 0, pages, range(33)))
    assert np.isfinite(after).all()
