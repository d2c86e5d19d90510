"""The kernels' attention over a cache, and softmax in float64 over what the cache holds."""

from __future__ import annotations

import numpy as np

from ternary_kernels import _native


def attention(queries, keys, values, cache="f32", window=0, threads=1):
    """What the kernels give for the last len(queries) tokens."""
    return _native.time_attention(queries, keys, values, cache, window, num_threads=threads, repeats=1)[0]


def as_cached(x: np.ndarray, cache: str) -> np.ndarray:
    """float64 values of what a cache of the type holds of float32 x [..., head_dim]."""
    if cache == "f16":
        return x.astype(np.float16).astype(np.float64)
    if cache == "int8":
        inverse = np.float32(127) / np.abs(x).max(-1, keepdims=True)
        return np.rint(x * inverse).astype(np.float64) / inverse
    return x.astype(np.float64)


def expected(queries, keys, values, cache="f32", window=0):
    """float64 [new, heads, head_dim]."""
    keys, values = as_cached(keys, cache), as_cached(values, cache)
    new, heads, head_dim = queries.shape
    group = heads // keys.shape[1]
    keys, values = keys.repeat(group, 1), values.repeat(group, 1)
    scores = np.einsum("nhd,thd->hnt", queries.astype(np.float64), keys) / np.sqrt(head_dim)
    place = np.arange(len(keys) - new, len(keys))[:, None] - np.arange(len(keys))
    scores[:, (place < 0) | (place >= (window or len(keys)))] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hnt,thd->nhd", weights / weights.sum(-1, keepdims=True), values)


def numbers(new: int, heads: int, kv_heads: int, head_dim: int, tokens: int, seed: int = 0):
    """Queries, keys and values; queries so large that some tokens count and most do not."""
    rng = np.random.default_rng([seed, new, heads, kv_heads, head_dim, tokens])
    queries = 3 * rng.standard_normal((new, heads, head_dim), np.float32)
    return queries, *rng.standard_normal((2, tokens, kv_heads, head_dim), np.float32)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    assert np.isfinite(found).all()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
