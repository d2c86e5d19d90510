"""The bound beside enumerations of a tiny model, computed plainly: whole texts, one choice of masks at a
time."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

import bitnet_arch.block_scoring as scoring
from bitnet_arch.block_decoding import decode_blocks
from bitnet_arch.block_masks import block_causal_mask
from bitnet_arch.block_scoring import bound_tokens, drawn_masks, every_mask, is_greedy
from bitnet_arch.scoring import score_tokens
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import ModelKindError

V = MASK = 5
TEXT = [1, 4, 0, 2, 3, 3, 1, 0, 2]


@pytest.fixture(scope="module")
def tiny(tiny_llama: Any) -> Any:
    """tiny(block_size, shift): one random model, far from uniform, that denoises such blocks."""
    model = tiny_llama(vocab_size=V + 1, hidden_size=32, intermediate_size=64).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3)

    def make(block_size: int, shift: bool = True) -> Any:
        settings = {"block_size": block_size, "mask_token_id": MASK, "token_shift": shift}
        model.config.block_diffusion = settings
        return model

    return make


@torch.no_grad()
def _log_p(model: Any, ids: list[int], place: int, target: int) -> float:
    """Of one token, after a pass over the ids, filled up to whole blocks."""
    settings = model.config.block_diffusion
    size = settings["block_size"]
    ids = ids + [MASK] * (-len(ids) % size)
    seen = block_causal_mask(len(ids), size)[None, None]
    logits = model(torch.tensor([ids]), attention_mask=seen).logits[0, place - settings["token_shift"]]
    return float(logits[:V].double().log_softmax(-1)[target])


def _orders(model: Any, text: list[int], places: list[int], end: int) -> np.ndarray:
    """log p of the tokens at these places of a block, one at a time, in each of their orders."""
    found = []
    for order in permutations(places):
        ids, total = [MASK if p in places else t for p, t in enumerate(text[:end])], 0.0
        for place in order:
            total += _log_p(model, ids, place, text[place])
            ids[place] = text[place]
        found.append(total)
    return np.array(found)


def _bound(model: Any, text: list[int], start: int = 1, samples: int = 64, seed: int = 0) -> Any:
    return bound_tokens(model, text, start, samples, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("start", [1, 3, 6])
@pytest.mark.parametrize(("size", "shift"), [(4, True), (4, False), (3, True)])
def test_it_is_the_mean_over_orders_and_a_bound(tiny: Any, size: int, shift: bool, start: int) -> None:
    """E[n / k sum of k cross-entropies] is the mean over all orders of -log p, and the likelihood of a model
    that draws its order is the mean of p: below it, by Jensen."""
    model, text = tiny(size, shift), TEXT
    found = _bound(model, text, start)
    expected, exact = [], []
    for begin in range(start // size * size, len(text), size):
        end = min(begin + size, len(text))
        places = list(range(max(begin, start), end))
        first = 0.0
        if shift and begin in places:
            places.remove(begin)
            first = _log_p(model, text[:begin], begin, text[begin])
        logs = _orders(model, text, places, end)
        expected.append(-logs.mean() - first)
        exact.append(-np.log(np.exp(logs).mean()) - first)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    assert (found.nats >= np.array(exact) - 1e-6).all()
    assert found.nats.sum() > sum(exact) + 1e-4
    assert found.num_tokens.sum() == len(text) - start
    assert (found.variances == 0).all()


@pytest.mark.parametrize("shift", [True, False])
def test_blocks_of_one_token_are_exact(tiny: Any, shift: bool) -> None:
    model = tiny(1, shift)
    found = _bound(model, TEXT)
    expected = [
        -_log_p(model, TEXT[:place] + [MASK] * (not shift), place, TEXT[place]) for place in range(1, 9)
    ]
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    assert found.num_passes == 1 + (not shift)


def test_blocks_of_one_token_are_the_autoregressive_model(tiny: Any) -> None:
    model = tiny(1)
    found = _bound(model, TEXT)
    model.config.block_diffusion = None
    logits_of_mask = model.get_output_embeddings().weight[MASK].clone()
    with torch.no_grad():  # what an autoregressive pass does not know: the mask token is no outcome
        model.get_output_embeddings().weight[MASK] = 0
    try:
        logprobs, _ = score_tokens(model, TEXT)
        ids = torch.tensor([TEXT[:-1]])
        logits = model(ids).logits[0].double().detach()
    finally:
        with torch.no_grad():
            model.get_output_embeddings().weight[MASK] = logits_of_mask
    lost = (logits.logsumexp(-1) - logits[:, :V].logsumexp(-1)).numpy()
    np.testing.assert_allclose(-found.nats, logprobs + lost, rtol=1e-4)


def test_the_mean_over_draws_is_the_exact_expectation(tiny: Any) -> None:
    """And its spread is what the variance says, at most."""
    model = tiny(8)
    exact = _bound(model, TEXT, samples=200)
    assert (exact.variances == 0).all()
    draws = [_bound(model, TEXT, samples=8, seed=seed) for seed in range(60)]
    totals = np.array([one.nats.sum() for one in draws])
    stderr = totals.std(ddof=1) / math.sqrt(len(totals))
    assert abs(totals.mean() - exact.nats.sum()) < 4 * stderr
    stated = np.mean([one.variances.sum() for one in draws])
    assert totals.var(ddof=1) < 1.5 * stated
    assert draws[0].num_passes == 8 + 1
    again = _bound(model, TEXT, samples=8, seed=3)
    np.testing.assert_array_equal(draws[3].nats, again.nats)


def test_drawn_masks_are_uniform_in_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    found = [drawn_masks(5, 3, generator) for _ in range(1500)]
    counts = torch.cat([masks.masked.sum(1) for masks in found])
    np.testing.assert_allclose(torch.bincount(counts)[1:] / len(counts), 0.2, atol=0.03)
    np.testing.assert_allclose(
        torch.cat([m.masked[m.masked.sum(1) == 2] for m in found]).double().mean(0), 0.4, atol=0.05
    )
    for masks in found[:5]:
        torch.testing.assert_close(masks.weights * masks.masked.sum(1) * 3, torch.full((3,), 5.0).double())


def test_all_masks_have_their_probabilities() -> None:
    masks = every_mask(3)
    assert len(masks.masked) == 7
    torch.testing.assert_close((masks.weights * masks.masked.sum(1)).sum(), torch.tensor(3.0).double())


@pytest.mark.parametrize("copies", [1, 3])
def test_parts_change_nothing(tiny: Any, monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    whole = _bound(tiny(4), TEXT, samples=5)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * 6 * (V + 1) * copies)
    np.testing.assert_allclose(_bound(tiny(4), TEXT, samples=5).nats, whole.nats, rtol=1e-6)


def test_one_copy_has_no_standard_error(tiny: Any) -> None:
    assert np.isnan(_bound(tiny(4), TEXT, samples=1).variances).any()


@pytest.mark.parametrize(("size", "shift"), [(4, True), (4, False), (1, True), (8, True)])
def test_greedy_is_what_decoding_gives(tiny: Any, size: int, shift: bool) -> None:
    """Of answers up to the end of a block, where nothing of the decoder's is beyond the answer."""
    model = tiny(size, shift)
    for prompt in ([1], [2, 3, 3, 1, 0]):
        count = -len(prompt) % size + size
        answer = decode_blocks(model, prompt, count, BlockDecoding(threshold=1)).token_ids
        assert is_greedy(model, prompt + answer, len(prompt))
        for place in range(count):
            other = [*answer]
            other[place] = (other[place] + 1) % V
            assert not is_greedy(model, prompt + other, len(prompt))


def test_what_cannot_be_scored(tiny: Any) -> None:
    model = tiny(4)
    for ids, start in (([1], 1), ([1, 2], 0), ([1, 2], 2)):
        with pytest.raises(ValueError, match="cannot score"):
            _bound(model, ids, start)
    with pytest.raises(ValueError, match="mask token"):
        _bound(model, [1, MASK, 2])
    model.config.block_diffusion = None
    with pytest.raises(ModelKindError, match="autoregressive"):
        _bound(model, TEXT)
