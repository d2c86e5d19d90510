"""Block diffusion in the decoder: against PyTorch with a mask, and against itself to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ternary_kernels as tk
from bitnet_arch.block_masks import block_causal_mask
from wf_formats.diffusion import BlockDiffusion

LENGTHS = [40, 1, 33, 70, 8, 31]
SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 208,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
TOLERANCE, MEAN_TOLERANCE = 2e-4, 1e-2
"""As in test_decoder.py: of tokens without a flipped rounding, and of all."""
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Any]) -> Any:
    return tiny("Llama", "tensor", SHAPE)


@pytest.fixture(scope="module")
def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, 320, n).astype(np.int32) for n in LENGTHS]


def in_blocks(weights: tk.ModelWeights, block_size: int) -> tk.ModelWeights:
    diffusion = BlockDiffusion(block_size, mask_token_id=2)
    return dataclasses.replace(weights, config=dataclasses.replace(weights.config, diffusion=diffusion))


def run(
    feeding: SimpleNamespace,
    weights: tk.ModelWeights,
    texts: list[np.ndarray],
    schedule: list[list[tuple[int, int]]] | None = None,
    cache: Any = "f32",
    threads: int = 1,
) -> list[np.ndarray]:
    """Logits of every token; without a schedule all in one call."""
    lengths = [len(text) for text in texts]
    table = feeding.page_table(lengths, seed=1)
    decoder = tk.Decoder(weights, int(table.max()) + 1, cache, threads)
    calls = schedule or feeding.schedule("batch", lengths)
    found: list[np.ndarray] = feeding.feed(decoder, texts, calls, table)
    return found


def block_by_block(lengths: list[int], block_size: int) -> list[list[tuple[int, int]]]:
    """One block of each text that has one, in every call."""
    starts = range(0, max(lengths), block_size)
    return [[(s, min(block_size, n - at)) for s, n in enumerate(lengths) if n > at] for at in starts]


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, others in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, others)


@pytest.mark.parametrize("block_size", [4, 8, 32])
def test_tokens_see_their_block_and_those_before_it(block_size, model, texts, feeding):
    found = run(feeding, in_blocks(model.weights, block_size), texts)
    differences = []
    for text, rows in zip(texts, found, strict=True):
        mask = block_causal_mask(len(text), block_size)[None, None]
        with torch.no_grad():
            ids = torch.from_numpy(text).long()[None]
            expected = model.reference(ids, attention_mask=mask, use_cache=False).logits[0].numpy()
        errors = feeding.log_softmax(rows) - feeding.log_softmax(expected)
        differences.append(np.sqrt((errors**2).mean(-1)))
    all_of_them = np.concatenate(differences)
    assert np.quantile(all_of_them, 0.25) <= TOLERANCE
    assert all_of_them.mean() <= MEAN_TOLERANCE
    causal = run(feeding, model.weights, texts)
    assert np.abs(found[0] - causal[0]).mean() > 0.1  # the comparison would see a causal mask


@pytest.mark.parametrize("cache", ["f16", "int8"])
def test_blocks_of_one_token_are_the_autoregressive_model_to_the_bit(cache, model, texts, feeding):
    blocks = run(feeding, in_blocks(model.weights, 1), texts, cache=cache)
    equal(blocks, run(feeding, model.weights, texts, cache=cache))


@pytest.mark.parametrize(("block_size", "cache"), [(4, "f16"), (8, "int8"), (32, "f16"), (20, "int8")])
def test_results_depend_on_the_text_alone(block_size, cache, model, texts, feeding):
    """Not on what else is in the batch, on the calls that its blocks came in, nor on threads."""
    weights = in_blocks(model.weights, block_size)
    whole = run(feeding, weights, texts, cache=cache)
    equal([run(feeding, weights, [text], cache=cache)[0] for text in texts], whole)
    calls = block_by_block(LENGTHS, block_size)
    equal(run(feeding, weights, texts, calls, cache=cache, threads=2), whole)


@pytest.mark.parametrize("cache", ["f16", "int8"])
def test_blocks_behind_long_contexts_have_the_same_bits_however_they_arrive(cache, tiny, feeding):
    """Spans of 12 tokens cut blocks, threads cut what they see, and a block reaches over token 256."""
    weights = in_blocks(tiny("Llama", "tensor", SHAPE | {"num_hidden_layers": 1}).weights, 24)
    text = np.random.default_rng(3).integers(3, 300, 530).astype(np.int32)
    whole = run(feeding, weights, [text], cache=cache)
    equal(run(feeding, weights, [text], block_by_block([530], 24), cache, threads=2), whole)


@pytest.mark.parametrize("cache", ["f16", "int8"])
def test_a_block_may_be_computed_again_and_again(cache, model, feeding):
    """With other tokens each time: the last ones count, for its own results and for those after it."""
    weights, block = in_blocks(model.weights, 8), np.arange(8, dtype=np.int32)
    rng = np.random.default_rng(4)
    text = rng.integers(3, 320, 32).astype(np.int32)
    (expected,) = run(feeding, weights, [text], cache=cache)
    decoder = tk.Decoder(weights, 1, cache, 1)

    def compute(tokens: np.ndarray, context: int) -> np.ndarray:
        arrays = ([0, len(tokens)], [context], [[0]])
        starts, contexts, pages = (np.array(array, np.int32) for array in arrays)
        return decoder.forward(tokens, starts, contexts, pages, np.arange(len(tokens), dtype=np.int32))

    for start in range(0, 32, 8):
        clean = text[start : start + 8]
        noisy = np.where(rng.random(8) < 0.5, 2, clean).astype(np.int32)
        assert (compute(noisy, start) != expected[start + block]).any()
        np.testing.assert_array_equal(compute(clean, start), expected[start + block])


def test_a_token_changes_its_block_and_those_after_it_alone(model, feeding):
    weights = in_blocks(model.weights, 8)
    text = np.random.default_rng(5).integers(3, 320, 30).astype(np.int32)
    changed = text.copy()
    changed[13] += 1
    before, after = (run(feeding, weights, [ids])[0] for ids in (text, changed))
    is_other = (before != after).any(-1)
    assert is_other[8:].all()
    assert not is_other[:8].any()


def test_a_layer_with_a_window_is_refused(model):
    config = model.weights.config
    layers = tuple(dataclasses.replace(layer, window=9) for layer in config.attention)
    windowed = dataclasses.replace(model.weights, config=dataclasses.replace(config, attention=layers))
    tk.Decoder(windowed, 1, "f16", 1)
    with pytest.raises(ValueError, match="a window of 9 tokens"):
        tk.Decoder(in_blocks(windowed, 8), 1, "f16", 1)
