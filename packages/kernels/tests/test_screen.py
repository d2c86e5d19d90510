"""The screen of a head: its bounds hold, also where they are met, and what it leaves is the full head's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import ternary_kernels as tk
from ternary_kernels import screen
from ternary_kernels._native import Screen, pack_screen
from ternary_kernels.packed import layout
from ternary_kernels.packed.contents import facts_of, sections_of, weights_of
from ternary_kernels.packed.layout import PackedFileError, open_file
from ternary_kernels.screen import directions_of, with_screen
from wf_formats.families.block import MATRICES, part_shape

ROWS, COLS, DIRECTIONS = 3001, 256, 24
FULL_REACH = np.zeros(1, np.int32), np.zeros(1, np.float32)
CONFIG = tk.DecoderConfig(
    hidden_size=COLS,
    intermediate_size=256,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=ROWS,
    rms_norm_eps=1e-5,
    activation="silu",
    attention=(tk.LayerAttention(None),),
    attention_scale=0.125,
    context_tokens=64,
)


def head_of(rng: np.random.Generator, bits: int = 8, group: int = 32, rows: int = ROWS) -> tk.Matrix:
    """Rows of 75 kinds, each its kind's centre and noise."""
    half = 2 ** (bits - 1)
    weights = rng.normal(size=(75, COLS))[np.arange(rows) * 75 // rows] + 0.5 * rng.normal(size=(rows, COLS))
    codes = np.clip((weights * half / 3.5).round(), -half, half - 1).astype(np.int8)
    return tk.pack_groups(
        codes, rng.uniform(0.8, 1.25, (rows, COLS // group)).astype(np.float32) / half, bits
    )


def values_of(matrix: tk.Matrix) -> np.ndarray:
    """What a matrix stands for, float64."""
    codes, scales = matrix.unpack()
    return (
        codes.reshape(*scales.reshape(len(codes), -1).shape, -1)
        * scales.reshape(len(codes), -1, 1).astype(float)
    ).reshape(codes.shape)


def frame(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(COLS, DIRECTIONS)))[0].T.astype(np.float32).copy()


def screen_of(rng: np.random.Generator, head: tk.Matrix) -> Screen:
    return pack_screen(head, frame(rng), rng.uniform(0.8, 1.25, DIRECTIONS + COLS).astype(np.float32))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (6, 16), (8, 64)])
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e12])
def test_no_logit_lies_above_its_bound(bits, group, size):
    rng = np.random.default_rng(bits)
    head = head_of(rng, bits, group, 200)
    screen = screen_of(rng, head)
    states = rng.normal(size=(7, COLS)) * size
    states[:3, 3] *= 100
    states[1] = 0
    states[2] *= 1e-7
    states = np.concatenate([states, screen.arrays()[0][:2] * size]).astype(np.float32)
    products, upper = screen.bounds(states, num_threads=2)
    logits = head.linear(states, "wide").astype(float)
    assert (np.abs(logits - products) <= upper.astype(float) - products).all()
    lengths = np.linalg.norm(states.astype(float), axis=1)[:, None] * np.linalg.norm(values_of(head), axis=1)
    if size >= 1:  # activations of less than 1e-5 become zeros
        assert ((upper - products)[3:7] <= 0.35 * lengths[3:7]).all(), (
            "bounds of four bits rule something out"
        )


def test_a_bound_is_met_by_the_state_that_it_fears():
    """A state along what the copy of a row leaves out: half of the bound would not hold."""
    rng = np.random.default_rng(1)
    head, directions = head_of(rng, rows=40), frame(rng)
    screen = pack_screen(head, directions, np.ones(DIRECTIONS + COLS, np.float32))
    missing = values_of(head) - values_of(screen.far)
    states = (missing - missing @ directions.T @ directions).astype(np.float32)
    products, upper = screen.bounds(states)
    logits = head.linear(states, "wide").astype(float)
    own = np.arange(len(states))
    met = (logits - products)[own, own] / (upper.astype(float) - products)[own, own]
    assert (met <= 1).all()
    assert met.min() > 0.7


def test_errors_are_the_lengths_of_what_is_left_out():
    rng = np.random.default_rng(2)
    head = head_of(rng, rows=37)
    screen = screen_of(rng, head)
    directions, factors, errors = (array.astype(float) for array in screen.arrays())
    weights = values_of(head)
    near, far = values_of(screen.near), values_of(screen.far)
    of_near = weights @ directions.T / factors[:DIRECTIONS] - near
    lengths = np.linalg.norm(of_near, axis=1), np.linalg.norm(weights / factors[DIRECTIONS:] - far, axis=1)
    for kept, length in zip(errors[:2, :37], lengths, strict=True):
        np.testing.assert_allclose(
            kept, length, rtol=1e-4
        )  # float32 products: their rounding is in the third
    own, *others = (np.linalg.norm(values, axis=1) for values in (weights, near, far))
    most = np.max([own, *(other + length for other, length in zip(others, lengths, strict=True))], axis=0)
    np.testing.assert_allclose(errors[2, :37], most, rtol=1e-5)
    assert (errors[2, :37] >= most * (1 - 1e-9)).all()
    assert (errors[:, 37:] == 0).all()


def test_the_example_of_the_formats_page():
    codes, scales = np.zeros((1, 16), np.int8), np.ones((1, 1), np.float32)
    codes[0, [0, 2]] = 3, 4
    screen = pack_screen(
        tk.pack_groups(codes, scales, 8), np.eye(1, 16, dtype=np.float32), np.ones(17, np.float32)
    )
    near, far = screen.near.unpack(), screen.far.unpack()
    assert (near[0][0, 0], far[0][0, :4].tolist()) == (127, [6, 0, 7, 0])
    np.testing.assert_allclose((near[1][0], far[1][0]), (3 / 127, 4 / 7.5), rtol=1e-6)
    np.testing.assert_allclose(screen.arrays()[2][:, 0], (0, 1 / 3, 4.917 + 1 / 3), atol=1e-3)


def test_rows_without_weights_and_tiny_ones():
    head = tk.pack_groups(np.eye(40, COLS, dtype=np.int8), np.full((40, COLS // 32), 1e-38, np.float32), 8)
    zeros = tk.pack_groups(np.zeros((40, COLS), np.int8), np.ones((40, COLS // 32), np.float32), 8)
    for matrix in (head, zeros):
        products, upper = screen_of(np.random.default_rng(0), matrix).bounds(np.ones((1, COLS), np.float32))
        assert (upper >= matrix.linear(np.ones((1, COLS), np.float32), "wide")).all()
        assert np.isfinite(products).all()


@pytest.fixture(scope="module")
def weights() -> tk.ModelWeights:
    """States of it are mostly the token's embedding, so that logits of its kind stand out."""
    rng = np.random.default_rng(3)

    def matrix(part: str) -> tk.Matrix:
        return tk.pack_ternary(
            rng.integers(-1, 2, part_shape(CONFIG, part)).astype(np.int8), np.float32(0.02)
        )

    ones = np.ones(COLS, np.float32)
    layer = tk.LayerWeights(
        input_norm=ones, post_attention_norm=ones, **{part: matrix(part) for part in MATRICES}
    )
    head = head_of(rng)
    screened = tk.ModelWeights(CONFIG, head, None, rng.uniform(0.5, 1.5, COLS).astype(np.float32), [layer])
    return dataclasses.replace(screened, screen=screen_of(rng, head))


def run(decoder: tk.Decoder, tokens: np.ndarray, reach: object = None) -> np.ndarray:
    """Logits after each token, each a sequence of its own."""
    num = np.int32(len(tokens))
    pages = np.arange(num, dtype=np.int32)[:, None]
    starts, contexts = np.arange(num + 1, dtype=np.int32), np.zeros(num, np.int32)
    return decoder.forward(
        tokens.astype(np.int32), starts, contexts, pages, np.arange(num, dtype=np.int32), reach
    )


def reach_of(num: int, count: int, depth: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return np.full(num, count, np.int32), np.full(num, depth, np.float32)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(("count", "depth"), [(1, 0.0), (6, 0.0), (1, 3.0)])
@pytest.mark.parametrize("num", [1, 5])
def test_what_is_in_reach_is_the_full_heads_to_the_bit(weights, num, count, depth):
    decoder = tk.Decoder(weights, 16, num_threads=2)
    for first in range(0, 10, num):
        tokens = np.arange(first, first + num) * 31
        full, screened = run(decoder, tokens), run(decoder, tokens, reach_of(num, count, depth))
        kept = screened > -np.inf
        np.testing.assert_array_equal(screened[kept], full[kept])
        least = np.minimum(np.sort(full, axis=1)[:, -count], full.max(axis=1) - depth)
        assert kept[full >= least[:, None]].all()
    rows, blocks = decoder.screen_use
    assert rows >= 8
    assert blocks < rows * decoder.config.vocab_size / 16 / 2, "the screen rules out nothing"


def test_equal_logits_all_stay(weights):
    """The lowest id of equal logits is drawn: a screen must not lose it."""
    codes, scales = weights.embedding.unpack()
    for twin in (3, 700, 2999):
        codes[twin], scales[twin] = codes[1500], scales[1500]
    head = tk.pack_groups(codes, scales, 8)
    doubled = dataclasses.replace(weights, embedding=head, screen=screen_of(np.random.default_rng(0), head))
    decoder = tk.Decoder(doubled, 16, num_threads=1)
    logits = run(decoder, np.array([1500]), reach_of(1, 1))[0]
    assert decoder.screen_use[0] == 1
    assert np.flatnonzero(logits == logits.max()).tolist() == [3, 700, 1500, 2999]


@pytest.mark.parametrize("reach", [None, FULL_REACH, (np.full(1, 3001, np.int32), np.zeros(1, np.float32))])
def test_all_logits_where_all_are_needed(weights, reach):
    decoder = tk.Decoder(weights, 16, num_threads=1)
    assert np.isfinite(run(decoder, np.array([5]), reach)).all()
    assert decoder.screen_use == (0, 0)


def test_one_row_that_needs_all_logits_gives_all_rows_in_full(weights):
    decoder = tk.Decoder(weights, 16, num_threads=1)
    reach = np.array([1, 0, 1], np.int32), np.zeros(3, np.float32)
    np.testing.assert_array_equal(run(decoder, np.arange(3), reach), run(decoder, np.arange(3)))


def test_a_screen_that_rules_out_nothing_is_tried_now_and_then_alone(weights):
    """Logits within 1e9 of the largest are all of them: the full head computes, and answers stay right."""
    decoder = tk.Decoder(weights, 16, num_threads=1)
    for _ in range(7):  # tried at the first, third and seventh
        assert np.isfinite(run(decoder, np.array([5]), reach_of(1, 1, 1e9))).all()
    assert decoder.screen_use == (0, 0)
    tried = [not np.isfinite(run(decoder, np.array([5]), reach_of(1, 1))).all() for _ in range(40)]
    assert tried == [False] * 7 + [True] * 33


def test_states_that_are_no_numbers_reach_whoever_draws(weights):
    bad = dataclasses.replace(weights, final_norm=np.full(COLS, np.nan, np.float32))
    logits = run(tk.Decoder(bad, 16, num_threads=1), np.array([5]), reach_of(1, 1))
    np.testing.assert_array_equal(
        np.isnan(logits), np.isnan(run(tk.Decoder(bad, 16, num_threads=1), np.array([5])))
    )


def test_a_kept_screen_is_the_same(weights, tmp_path):
    layout.write(tmp_path / "kept", facts_of(weights), sections_of(weights))
    kept = weights_of(open_file(tmp_path / "kept"))
    own, its = tk.Decoder(weights, 16, num_threads=1), tk.Decoder(kept, 16, num_threads=1)
    for token in range(20):
        args = np.array([token]), reach_of(1, 3)
        np.testing.assert_array_equal(run(own, *args), run(its, *args))
    assert own.screen_use == its.screen_use != (0, 0)
    assert kept.num_bytes == weights.num_bytes


@pytest.mark.parametrize("name", ["near", "far", "directions", "factors", "errors"])
def test_a_kept_screen_that_lacks_a_part_is_refused(weights, tmp_path, name):
    facts = facts_of(weights)
    del facts["parts"][f"screen.{name}"]
    layout.write(tmp_path / "kept", facts, sections_of(weights))
    with pytest.raises(PackedFileError):
        weights_of(open_file(tmp_path / "kept"))


def test_wrong_screens_are_refused_by_name(weights):
    head, rng = weights.embedding, np.random.default_rng(0)
    with pytest.raises(ValueError, match="direction 0 of a screen is longer than 1"):
        pack_screen(head, 2 * frame(rng), np.ones(DIRECTIONS + COLS, np.float32))
    with pytest.raises(ValueError, match="direction 0 of a screen is longer than 1 or not finite"):
        pack_screen(head, np.full((1, COLS), np.nan, np.float32), np.ones(1 + COLS, np.float32))
    for factor in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="factor 0 of a screen"):
            pack_screen(head, frame(rng), np.full(DIRECTIONS + COLS, factor, np.float32))
    with pytest.raises(ValueError, match="do not fit a head of 256 columns"):
        pack_screen(head, np.ones((2, 8), np.float32), np.ones(8, np.float32))
    other = screen_of(rng, head_of(rng, rows=64))
    with pytest.raises(ValueError, match="the screen is of a head of 64 x 256"):
        tk.Decoder(dataclasses.replace(weights, screen=other), 1)
    near, arrays = other.near, other.arrays()
    with pytest.raises(ValueError, match="far of a screen is q8"):
        Screen.from_parts(near, near, *arrays)
    with pytest.raises(ValueError, match=r"bounds|numbers"):
        other.bounds(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        other.bounds(np.full((1, COLS), np.inf, np.float32))
    with pytest.raises(ValueError, match="one count and one depth"):
        run(tk.Decoder(weights, 16), np.arange(2), reach_of(1, 1))


@pytest.mark.parametrize("format", ["t2", "t5"])
def test_a_ternary_head_gets_no_screen(weights, monkeypatch, format):
    monkeypatch.setattr(screen, "MIN_WEIGHTS", 1)
    codes = np.random.default_rng(0).integers(-1, 2, (ROWS, COLS)).astype(np.int8)
    ternary = dataclasses.replace(weights, head=tk.pack_ternary(codes, np.float32(0.1), format))
    assert with_screen(ternary, None) is ternary, "it reads fewer bytes than a screen"


def test_a_head_of_four_bits_and_a_small_one_get_no_screen(weights, monkeypatch):
    assert with_screen(weights, None) is weights
    monkeypatch.setattr(screen, "MIN_WEIGHTS", 1)
    narrow = dataclasses.replace(weights, embedding=head_of(np.random.default_rng(0), 4))
    assert with_screen(narrow, None) is narrow
    decoder = tk.Decoder(narrow, 16, num_threads=1)
    assert np.isfinite(run(decoder, np.array([5]), reach_of(1, 1))).all(), "reads no less than the head"


def test_directions_are_those_of_the_states():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(64, 4)))[0].T
    noise = rng.normal(size=(500, 64)) * np.r_[0.01, np.full(63, 0.001)]
    states = (rng.normal(size=(500, 4)) @ basis + noise).astype(np.float32)
    directions, factors = directions_of(states, 4)
    np.testing.assert_allclose(np.abs(np.linalg.svd(directions @ basis.T)[1]), 1, atol=1e-3)
    assert factors.shape == (4 + 64,)
    assert factors[4:].argmin() == 0
    assert (factors > 0).all()
    assert directions_of(states, 96)[0].shape == (16, 64)
