"""What a request says of single tokens: masks, bias, counted penalties.

A rule must give what the plain sampler gives for logits that numpy has changed beforehand (`test_sampler.py`
compares that one with a reference).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampler_rows import VOCAB, draws, random_row, sample

WAYS: list[dict[str, float]] = [
    {},
    {"temperature": 0},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 700},
    {"top_p": 0.9},
    {"top_k": 30, "top_p": 0.5},
    {"min_p": 0.05},
    {"temperature": 2.0, "top_p": 0.3},
]


def mask_of(allowed: np.ndarray) -> np.ndarray:
    """Bit i % 32 of word i // 32, by numpy's own packing."""
    words = np.zeros(-(-len(allowed) // 32) * 4, np.uint8)
    packed = np.packbits(allowed, bitorder="little")
    words[: len(packed)] = packed
    return words.view("<u4")


def some_allowed(kind: str, vocab: int) -> np.ndarray:
    rng = np.random.default_rng(vocab)
    allowed = {
        "one": np.arange(vocab) == vocab - 1,
        "few": rng.random(vocab) < 0.02,
        "half": rng.random(vocab) < 0.5,
        "most": rng.random(vocab) < 0.98,
        "blocks": np.arange(vocab) // 128 % 3 == 0,
        "all": np.ones(vocab, bool),
    }[kind]
    allowed[vocab // 2] = True
    return allowed


@pytest.mark.parametrize("vocab", [5, 128, VOCAB, 4099])
@pytest.mark.parametrize("kind", ["one", "few", "half", "most", "blocks", "all"])
def test_a_mask_gives_what_minus_infinity_gives(vocab: int, kind: str):
    allowed = some_allowed(kind, vocab)
    row = random_row(1, vocab)
    row[np.flatnonzero(~allowed)[:3]] = 50.0  # what is forbidden would win
    forbidden = np.where(allowed, row, -np.inf)
    for options in WAYS:
        masked = draws(row, 60, masks=[mask_of(allowed)], **options)
        assert allowed[masked].all()
        np.testing.assert_array_equal(masked, draws(forbidden, 60, **options))


def test_logprobs_under_a_mask_are_those_of_the_raw_logits():
    allowed = some_allowed("few", VOCAB)
    row = random_row(1)
    rules = {"masks": [mask_of(allowed)], "bias_ids": [[5]], "bias_values": [[3.0]], "answers": [[7]]}
    plain = sample(row[None], num_logprobs=9)
    tokens, logprobs, top_tokens, top_logprobs = sample(
        row[None], num_logprobs=9, presence_penalty=1, **rules
    )
    exact = row.astype(np.float64) - np.logaddexp.reduce(row.astype(np.float64))
    np.testing.assert_allclose(logprobs, exact[tokens], rtol=1e-6, atol=4e-6)
    np.testing.assert_array_equal(top_tokens[0], plain[2][0])
    np.testing.assert_array_equal(top_logprobs[0], plain[3][0])


def test_bits_behind_the_vocabulary_allow_nothing():
    mask = np.zeros(32, np.uint32)
    mask[-1] = np.uint32(0xFFFFFF00)  # tokens 1000 .. 1023
    with pytest.raises(ValueError, match="row 0: no token can be drawn: the mask forbids"):
        sample(random_row(1)[None], masks=[mask])


def test_a_mask_that_forbids_all_names_its_row():
    rows = np.stack([random_row(1)] * 3)
    with pytest.raises(ValueError, match="row 1: no token can be drawn: the mask forbids"):
        sample(rows, masks=[None, np.zeros(32, np.uint32), None])
    lost = np.where(np.arange(VOCAB) == 3, -np.inf, 0.0)
    with pytest.raises(ValueError, match="row 0: no token can be drawn: the mask forbids"):
        sample(lost[None], masks=[mask_of(np.arange(VOCAB) == 3)])


def test_a_nan_among_forbidden_tokens_is_still_a_broken_model():
    row = random_row(1)
    row[0] = np.nan
    with pytest.raises(ValueError, match="row 0: the logits have a NaN"):
        sample(row[None], masks=[mask_of(np.arange(VOCAB) > 500)])


def test_a_mask_over_a_million_equal_logits():
    """More than 2^19 tokens, where sums of masses are no longer exact."""
    allowed = np.arange(1_000_001) % 7 == 3
    assert allowed[draws(np.zeros(1_000_001, np.float32), 8, masks=[mask_of(allowed)])].all()


def test_bias_is_added_to_the_logits():
    row, ids, values = random_row(2), [3, 999, 500], [4.0, -2.5, 0.25]
    changed = row.copy()
    changed[ids] += np.float32(values)
    for options in WAYS:
        biased = draws(row, 60, bias_ids=[ids], bias_values=[values], **options)
        np.testing.assert_array_equal(biased, draws(changed, 60, **options))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_a_bias_of_100_forces_and_of_minus_100_forbids(temperature: float):
    row = random_row(3, scale=6.0)
    best, worst = int(row.argmax()), int(row.argmin())
    assert set(draws(row, 200, temperature=temperature, bias_ids=[[worst]], bias_values=[[100]])) == {worst}
    assert best not in draws(row, 200, temperature=temperature, bias_ids=[[best]], bias_values=[[-100]])


def test_counted_penalties_follow_openai():
    """logit - count * frequency - (count > 0) * presence, of the answer's tokens alone."""
    row, answer = random_row(4), [7, 7, 7, 9, 500, 9]
    changed = row.copy()
    for token, count in ((7, 3), (9, 2), (500, 1)):
        changed[token] = changed[token] - np.float32(count) * np.float32(0.7) - np.float32(0.4)
    rules: dict[str, Any] = {"frequency_penalty": 0.7, "presence_penalty": 0.4, "answers": [answer]}
    for options in WAYS:
        np.testing.assert_array_equal(draws(row, 60, **rules, **options), draws(changed, 60, **options))
    prompt = {"history": [[1, 2, 3] * 20], "answers": [[]]}
    np.testing.assert_array_equal(
        draws(row, 60, frequency_penalty=2, presence_penalty=2, **prompt), draws(row, 60)
    )
    encouraged = np.full((1, VOCAB), -1.0)
    assert sample(encouraged, temperature=0, answers=[[77]], presence_penalty=-0.5)[0] == [77]


def test_the_order_is_bias_repetition_counts():
    """A bias that turns the sign decides whether the repetition penalty divides or multiplies."""
    row = np.full(VOCAB, -50.0, np.float32)
    row[5], row[6] = -1.0, 0.3
    rules = {"bias_ids": [[5]], "bias_values": [[3.0]], "history": [[5]], "answers": [[5]]}
    rules |= {"repetition_penalty": 2.0, "presence_penalty": 0.5}
    # (-1 + 3) / 2 - 0.5 = 0.5 > 0.3; any other order gives 1.75 / 2, (2 - 0.5) / 2 or less than 0.3
    assert sample(row[None], temperature=0, **rules)[0] == [5]
    row[6] = 0.55
    assert sample(row[None], temperature=0, **rules)[0] == [6]


def test_rows_with_rules_are_the_same_in_any_batch():
    rows = np.stack([random_row(seed) for seed in range(5)])
    rules: dict[str, list[Any]] = {
        "masks": [
            mask_of(some_allowed("half", VOCAB)),
            None,
            mask_of(some_allowed("few", VOCAB)),
            None,
            None,
        ],
        "bias_ids": [None, [1, 2], [3], [], None],
        "bias_values": [None, [5.0, -5.0], [9.0], [], None],
        "answers": [[1, 1], [], [4, 4, 4], [7], None],
        "history": [[1, 1, 8], [2], None, [7, 8], []],
    }
    numbers = {"presence_penalty": np.linspace(-1, 1, 5), "frequency_penalty": np.linspace(1, 0, 5)}
    options: dict[str, Any] = {"repetition_penalty": 1.2, "seeds": 3, "num_logprobs": 2}
    together = sample(rows, **rules, **numbers, **options)
    for i in range(5):
        row = slice(i, i + 1)
        own = {name: value[row] for name, value in (rules | numbers).items()}
        alone = sample(rows[row], **own, **options)
        for whole, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(whole[i], single[0])
    assert (rows[3] == random_row(3)).all()  # the caller's logits stay


def test_choices_under_rules_are_pinned_to_the_bit():
    """Whatever the instruction set, compiler and release."""
    values = (np.arange(3000, dtype=np.int64) * 7919 % 4001).astype(np.float32) / 400
    tokens = draws(
        values,
        6,
        masks=[mask_of(np.arange(3000) % 3 > 0)],
        bias_ids=[[100, 2999]],
        bias_values=[[3.0, -1.25]],
        answers=[[100, 245, 245]],
        frequency_penalty=0.3,
        presence_penalty=0.1,
        seeds=2**40 + 1,
    )
    assert tokens.tolist() == [148, 2992, 2365, 2852, 2942, 1495]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"masks": [None, np.zeros(31, np.uint32)]},
            r"masks\[1\]: expected 32 words for 1000 tokens, got 31",
        ),
        ({"masks": [None, np.zeros(0, np.uint32)]}, r"masks\[1\]: expected 32 words for 1000 tokens, got 0"),
        ({"masks": [None, np.zeros(32, np.int32)]}, r"masks\[1\]: expected uint32"),
        ({"masks": [None]}, "masks: expected one array for each of 2 rows, got 1"),
        ({"bias_ids": [[1], []], "bias_values": [[1.0], [2.0]]}, "row 1: bias has 0 ids and 1 values"),
        (
            {"bias_ids": [[VOCAB], []], "bias_values": [[1.0], []]},
            "row 0: bias has token 1000, the vocabulary",
        ),
        (
            {"bias_ids": [[1], []], "bias_values": [[np.inf], []]},
            "row 0: bias must be a finite number, got inf",
        ),
        ({"answers": [[], [-1]]}, "row 1: answer has token -1"),
        ({"presence_penalty": np.nan}, "row 0: presence_penalty must be a finite number, got nan"),
        ({"frequency_penalty": np.inf}, "row 0: frequency_penalty must be a finite number, got inf"),
        (
            {"bias_ids": [[1], []], "bias_values": [[3e38], []]},
            r"row 0: bias or penalties make a logit \+inf",
        ),
    ],
)
def test_bad_rules_are_named(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        sample(np.full((2, VOCAB), 3e38, np.float32), **change)


def test_the_benchmark_checks_its_draws_and_reports_ratios():
    script = Path(__file__).parent.parent / "benchmarks" / "sampler.py"
    command = [sys.executable, str(script), "--vocab", "20000", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    times = json.loads(done.stdout)["times"]
    assert {row["rule"] for row in times} == {"none", "half", "most", "few", "rules"}
    assert all(row["ms"] > 0 for row in times)
    assert {row["ratio"] for row in times if row["rule"] == "none"} == {1.0}
