"""Random models whose numbers are large, up to beyond float16 and float32, on the real decoder and sampler.

Answers are token for token the same whatever is guessed, beside whomever and on any number of threads; or the
request ends with the error that names what its logits are, after the same tokens.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from guessing import FixedCosts, Oracle

import ternary_kernels as tk
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.request import AnswerFailed
from wrinklefree_inference.native.speculation.draft import DraftGuesser
from wrinklefree_inference.native.speculation.ngram import NGramGuesser
from wrinklefree_inference.options import QueueOptions

VOCAB, HIDDEN, FFN = 64, 32, 48
LARGE = 62
"""A token whose embedding is such that no norm of it is a number."""
SCALES = (1.0, 1e2, 1e4, 1e6)


def random_weights(seed):
    rng = np.random.default_rng(seed)

    def matrix(rows, cols):
        codes = rng.integers(-1, 2, (rows, cols)).astype(np.int8)
        return tk.pack_ternary(codes, np.float32(0.1 * rng.choice(SCALES)))

    def norm(size=HIDDEN):
        return np.full(size, rng.choice((1.0, 30.0)), np.float32)

    def layer():
        shapes = dict.fromkeys("qo", (HIDDEN, HIDDEN)) | dict.fromkeys("kv", (16, HIDDEN))
        shapes |= dict.fromkeys(("gate", "up"), (FFN, HIDDEN)) | {"down": (HIDDEN, FFN)}
        return tk.LayerWeights(norm(), norm(), **{name: matrix(*shape) for name, shape in shapes.items()})

    scales = (10.0 ** rng.uniform(-3, 4, (VOCAB, 1))).astype(np.float32)
    scales[LARGE] = 1e28
    config = tk.DecoderConfig(
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        vocab_size=VOCAB,
        rms_norm_eps=1e-5,
        activation="relu2" if seed % 3 == 0 else "silu",
        attention=(
            tk.LayerAttention(
                tk.Rope(tuple(10000.0 ** (-i / 8) for i in range(8))), 20 if seed % 2 else None
            ),
        )
        * 2,
        attention_scale=0.25,
        context_tokens=512,
    )
    codes = rng.integers(-127, 128, (VOCAB, HIDDEN)).astype(np.int8)
    head = tk.pack_groups(codes, np.full((VOCAB, 1), 1e-3, np.float32), 8)
    return tk.ModelWeights(config, tk.pack_groups(codes, scales, 8), head, norm(), [layer(), layer()])


def requests(toy, seed):
    """Six, two of which come to the large token, in the prompt's middle and at its end."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(6):
        text = [*rng.integers(9, 60, int(rng.integers(2, 9))).tolist()] * int(rng.integers(1, 7))
        if i == 4:
            text[len(text) // 2] = LARGE
        elif i == 5:
            text.append(LARGE)
        way = {"temperature": (0.0, 1.0, 30.0)[i % 3], "seed": i, "ignore_eos": True, "max_tokens": 30}
        made.append(toy.make_request(text, name=str(i), **way, logprobs=1 if i == 1 else None))
    return made


def outcomes(toy, weights, asked, cache="f16", threads=1, guesser=None):
    """By the name of each request: the tokens and entries of its answer, and the error that ended it."""
    decoder = tk.Decoder(weights, 64, cache, num_threads=threads)
    model = NativeModel(
        "random", decoder, toy.ToyTokenizer(), toy.ToyStream, tk.sample, 512, VOCAB, HIDDEN, guesser
    )
    core = model.new_core(QueueOptions(8, 100, 64, 32))
    if guesser is not None:
        core._speculator._step_costs = FixedCosts(lambda sizes: 1 + 0.001 * sizes)
        core._speculator._guess_costs = FixedCosts(lambda sizes: 0.0 * sizes)
    for request in asked:
        core.scheduler.add(model.new_sequence(request, None))
    found = defaultdict(lambda: [(), (), ""])
    for _ in range(500):
        if not core.scheduler.has_work:
            break
        for sequence, event in core.step():
            kept = found[sequence.request.id]
            if isinstance(event, AnswerFailed):
                kept[2] = str(event)
            else:
                kept[0] += event.token_ids
                kept[1] += event.logprobs
    assert not core.scheduler.has_work
    assert core.scheduler.cache.num_used == 0
    return dict(found), core.counters


def wrong_guesses(answers):
    """Each answer with the large token in it, and another that it does not have, where it may be computed."""
    return {
        name: [LARGE if i % 5 == 3 else token for i, token in enumerate([*tokens, *[LARGE] * 30])]
        for name, (tokens, _, _) in answers.items()
    }


def check(toy, seed, cache):
    weights, asked = random_weights(seed), requests(toy, seed)
    alone = {}
    for request in asked:
        alone |= outcomes(toy, weights, [request], cache)[0]
    together, _ = outcomes(toy, weights, asked, cache, threads=2)
    assert together == alone
    guessed = 0
    draft = tk.Decoder(random_weights(seed + 100), 64, cache, num_threads=1)
    guessers = (
        NGramGuesser,
        lambda: Oracle(wrong_guesses(alone), 99),
        lambda: DraftGuesser(draft, 512, tk.sample, VOCAB, VOCAB),
    )
    for guesser in guessers:
        for threads in (1, 2):
            found, counters = outcomes(toy, weights, asked, cache, threads, guesser)
            assert found == alone, (guesser, threads)
            guessed += counters.guessed_tokens
    assert guessed > 0 or all(error for _, _, error in alone.values())
    for name in "45":
        assert alone[name][0] == ()
        assert alone[name][2].startswith("no token can be drawn after 0 of the answer: the logits have a NaN")
    return alone


@pytest.mark.parametrize("cache", ["f16", "int8"])
def test_large_numbers_change_no_answer_whatever_is_guessed(toy, cache):
    ended = [[error == "" for _, _, error in check(toy, seed, cache).values()] for seed in range(3)]
    assert sum(map(sum, ended)) >= 7, "of one model the activations themselves go beyond float32"


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["f16", "int8"])
@pytest.mark.parametrize("seed", range(3, 40))
def test_large_numbers_of_many_models(toy, cache, seed):
    check(toy, seed, cache)
