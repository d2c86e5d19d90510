"""The decoder against PyTorch on random models of each family, and against itself to the bit.

What may differ from the reference (conftest.pin_to_packed) is the order of float32 sums, 1e-6, and the head's
16-bit inputs: 3e-5 nats (root mean square over the vocabulary). Such an error flips the rounding of an
activation now and then, and a flip moves its token, and maybe those after it, by up to 3e-2. So a comparison
asks two things of the tokens: the lower quartile of their differences (tokens without a flip; measured 2e-5
to 4e-5) is at most TOLERANCE, and their mean is at most MEAN_TOLERANCE. A scale off by 1 % moves every
token: measured at least 3e-3, whichever single matrix has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ternary_kernels as tk
from wf_formats.families.block import HF_STEMS

TOLERANCE = 2e-4
MEAN_TOLERANCE = 1e-2
CACHE_TOLERANCES = {"f16": 0.06, "int8": 0.12}
"""Mean difference: rounding the cache moves what follows, and roundings there flip."""
LENGTHS = [40, 1, 33, 7, 70, 5, 12, 3]
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def shape(
    hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "tie_word_embeddings": True,
    } | more


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
UNTIED = {"tie_word_embeddings": False}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama-tensor": ("Llama", "tensor", shape(96, 208, 6, 2, 16)),
    "llama-group64-llama3-untied": (
        "Llama",
        "group64",
        shape(128, 192, 4, 1, 64, **UNTIED, rope_parameters=LLAMA_3),
    ),
    "llama-group128-head48": ("Llama", "group128", shape(128, 384, 8, 8, 48)),
    "mistral-group64-head48": ("Mistral", "group64", shape(128, 192, 4, 2, 48, sliding_window=None)),
    "qwen2-tensor-untied": ("Qwen2", "tensor", shape(112, 200, 7, 1, 16, **UNTIED)),
    "qwen2-group64": ("Qwen2", "group64", shape(128, 192, 7, 1, 64)),
    "qwen3-tensor-untied": ("Qwen3", "tensor", shape(160, 272, 2, 2, 80, **UNTIED)),
    "qwen3-group128": ("Qwen3", "group128", shape(128, 256, 4, 2, 64)),
    "llama-group64-yarn-biases": (
        "Llama",
        "group64",
        shape(128, 192, 4, 2, 32, rope_parameters=YARN, attention_bias=True, mlp_bias=True),
    ),
    "llama-tensor-biases": ("Llama", "tensor", shape(96, 208, 6, 2, 16, attention_bias=True, mlp_bias=True)),
    "mistral-group64-window": ("Mistral", "group64", shape(128, 192, 4, 2, 48, sliding_window=9)),
    "mistral-group64-pages": ("Mistral", "group64", shape(128, 192, 4, 2, 32, sliding_window=33)),
    "qwen2-group64-window": (
        "Qwen2",
        "group64",
        shape(128, 192, 4, 1, 32, use_sliding_window=True, sliding_window=16, max_window_layers=1),
    ),
    "smollm3-group64": (
        "SmolLM3",
        "group64",
        shape(128, 192, 4, 1, 32, no_rope_layers=[1, 0], pad_token_id=None),
    ),
    "gemma3-group64": (
        "Gemma3Text",
        "group64",
        shape(
            128,
            192,
            4,
            2,
            48,
            query_pre_attn_scalar=40,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters=GEMMA_ROPES,
        ),
    ),
    "llama-tensor-corrected": ("Llama", "tensor", shape(96, 208, 6, 2, 16, rank=5)),
    "qwen2-group64-corrected": ("Qwen2", "group64", shape(128, 704, 7, 1, 64, rank=19)),
    "bitnet-silu": ("BitNet", "silu", shape(128, 224, 4, 1, 32)),
    "bitnet-relu2": ("BitNet", "relu2", shape(160, 256, 8, 2, 20)),
}
NORMALIZED_AWAY = {
    "qwen3-tensor-untied": ("q", "k"),
    "qwen3-group128": ("q", "k"),
    "gemma3-group64": ("q", "k", "v", "o", "up", "down"),
    "bitnet-silu": ("v", "up"),
    "bitnet-relu2": ("v", "gate", "up"),
}
"""A norm follows: any factor cancels (squared ReLU keeps a factor of the gate for the norm, too)."""
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.usefixtures("restore_isa"),
]


@pytest.fixture(scope="module")
def case(tiny: Callable[..., Any]) -> Callable[[str], Any]:
    """Factory (cached): model, texts and expected log-probabilities of a case."""
    made: dict[str, SimpleNamespace] = {}

    def make(name: str) -> SimpleNamespace:
        if name not in made:
            model = tiny(*CASES[name])
            rng = np.random.default_rng(0)
            texts = [rng.integers(3, model.weights.config.vocab_size, n).astype(np.int32) for n in LENGTHS]
            made[name] = SimpleNamespace(model=model, texts=texts, expected=model.expected(texts))
        return made[name]

    return make


@pytest.fixture
def logits_of(feeding: SimpleNamespace) -> Callable[..., list[np.ndarray]]:
    def run(
        weights: tk.ModelWeights,
        texts: list[np.ndarray],
        kind: str = "batch",
        cache: Any = "f32",
        threads: int = 1,
    ):
        lengths = [len(text) for text in texts]
        table = feeding.page_table(lengths, seed=1)
        decoder = tk.Decoder(weights, int(table.max()) + 1, cache, threads)
        return feeding.feed(decoder, texts, feeding.schedule(kind, lengths), table)

    return run


@pytest.fixture
def differences(feeding: SimpleNamespace) -> Callable[..., np.ndarray]:
    """Root mean square over the vocabulary of the difference of log-probabilities, of each token."""

    def compare(logits: list[np.ndarray], expected: list[np.ndarray]) -> np.ndarray:
        found = np.concatenate([feeding.log_softmax(rows) for rows in logits])
        return np.sqrt(((found - np.concatenate(expected)) ** 2).mean(-1))

    return compare


def agree(differences: np.ndarray) -> bool:
    return bool(np.quantile(differences, 0.25) <= TOLERANCE and differences.mean() <= MEAN_TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_are_pytorchs_however_tokens_arrive(name, case, logits_of, differences):
    given = case(name)
    alone = logits_of(given.model.weights, given.texts, "alone")
    assert agree(differences(alone, given.expected))
    for kind in ("batch", "steps", "chunks"):
        for ours, others in zip(logits_of(given.model.weights, given.texts, kind), alone, strict=True):
            np.testing.assert_array_equal(ours, others)


@pytest.mark.parametrize("name", CASES)
def test_a_scale_off_by_one_percent_fails_the_comparison(name, case, logits_of, differences, feeding):
    given = case(name)
    wrong = [{}, {"layer": 0}, {"layer": 1}]
    visible = [part for part in feeding.parts if part not in NORMALIZED_AWAY.get(name, ())]
    wrong += [{"layer": layer, "parts": [part]} for layer in (0, 1) for part in visible]
    for where in wrong:
        moved = differences(logits_of(given.model.with_scales(1.01, **where), given.texts), given.expected)
        assert np.quantile(moved, 0.25) > 5 * TOLERANCE, where


def test_a_correction_off_by_one_percent_fails_the_comparison(case, logits_of, differences, feeding):
    given = case("qwen2-group64-corrected")
    for part in feeding.parts:
        stem = f"model.layers.1.{HF_STEMS[part]}"
        u, v = (factor.detach().numpy() for factor in given.model.reference.get_submodule(stem).factors)
        wrong = tk.LowRank(u * np.float32(1.01), np.ascontiguousarray(v.T))
        layers = list(given.model.weights.layers)
        layers[1] = dataclasses.replace(layers[1], **{f"{part}_correction": wrong})
        moved = dataclasses.replace(given.model.weights, layers=layers)
        found = differences(logits_of(moved, given.texts), given.expected)
        assert np.quantile(found, 0.25) > 2 * TOLERANCE, part


@pytest.mark.parametrize("name", ["qwen2-group64", "qwen2-group64-corrected"])
def test_any_number_of_threads_gives_the_same_bits(name, case, logits_of):
    given = case(name)
    one = logits_of(given.model.weights, given.texts)
    for threads in (2, 3, 5):
        for ours, others in zip(
            logits_of(given.model.weights, given.texts, threads=threads), one, strict=True
        ):
            np.testing.assert_array_equal(ours, others)


def test_sequences_that_share_pages_read_the_same_prefix(case, feeding):
    model = case("llama-tensor").model
    rng = np.random.default_rng(1)
    prefix, *ends = (rng.integers(3, feeding.vocab, n).astype(np.int32) for n in (2 * tk.PAGE_TOKENS, 9, 40))
    decoder = tk.Decoder(model.weights, 8, "f32", 1)
    feeding.feed(decoder, [prefix], [[(0, len(prefix))]], np.array([[5, 2]], np.int32))
    table = np.array([[5, 2, 0, -1], [5, 2, 7, 1]], np.int32)
    both = [(0, len(ends[0])), (1, len(ends[1]))]
    shared = feeding.feed(decoder, ends, [both], table, contexts=[len(prefix)] * 2)
    for end, logits in zip(ends, shared, strict=True):
        whole = np.concatenate([prefix, end])
        alone = tk.Decoder(model.weights, 8, "f32", 1)
        (expected,) = feeding.feed(alone, [whole], [[(0, len(whole))]], feeding.page_table([len(whole)]))
        np.testing.assert_array_equal(logits, expected[len(prefix) :])


@pytest.mark.parametrize("cache", CACHE_TOLERANCES)
@pytest.mark.parametrize("name", ["llama-tensor", "qwen3-group128", "mistral-group64-window", "bitnet-relu2"])
def test_smaller_caches_stay_close_and_give_the_same_bits_however_tokens_arrive(
    cache, name, case, logits_of, differences
):
    given = case(name)
    alone = logits_of(given.model.weights, given.texts, "alone", cache)
    assert 1e-3 < differences(alone, given.expected).mean() < CACHE_TOLERANCES[cache]
    for ours, others in zip(logits_of(given.model.weights, given.texts, "chunks", cache), alone, strict=True):
        np.testing.assert_array_equal(ours, others)


def test_long_contexts_reach_every_page(tiny, logits_of, differences):
    """One layer: keys and values do not depend on flips, so that all tokens of 22 pages can be judged."""
    model = tiny("Llama", "group64", shape(128, 192, 4, 1, 64, num_hidden_layers=1))
    texts = [np.random.default_rng(2).integers(3, 300, 700).astype(np.int32)]
    expected = model.expected(texts)
    found = differences(logits_of(model.weights, texts), expected)
    assert np.quantile(found, 0.9) <= TOLERANCE
    assert np.quantile(found[-64:], 0.5) <= TOLERANCE
    moved = differences(logits_of(model.with_scales(1.01, parts=["q"]), texts), expected)
    assert np.quantile(moved[-64:], 0.25) > 5 * TOLERANCE


@pytest.mark.parametrize("cache", ["f16", "int8"])
def test_tokens_behind_long_contexts_have_the_same_bits_however_they_arrive(cache, tiny, logits_of):
    """Alone, where threads share the context, or in pieces of a prompt, where they share its tokens."""
    model = tiny("Llama", "group64", shape(128, 192, 4, 1, 32, num_hidden_layers=1))
    texts = [np.random.default_rng(3).integers(3, 300, 530).astype(np.int32)]
    whole = logits_of(model.weights, texts, "alone", cache)
    for kind, threads in (("steps", 2), ("chunks", 1)):
        (found,) = logits_of(model.weights, texts, kind, cache, threads)
        np.testing.assert_array_equal(found, whole[0], err_msg=kind)


@pytest.mark.parametrize(
    "name",
    [
        "llama-tensor",
        "qwen3-group128",
        "mistral-group64-window",
        "gemma3-group64",
        "bitnet-relu2",
        "qwen2-group64-corrected",
    ],
)
def test_every_instruction_set_agrees(name, case, logits_of, differences):
    given = case(name)
    for isa, state in tk.info()["instruction_sets"].items():
        if state == "available":
            tk.select_isa(isa)
            assert agree(differences(logits_of(given.model.weights, given.texts), given.expected)), isa


BATCH: dict[str, Any] = {
    "tokens": [3, 4, 5],
    "starts": [0, 2, 3],
    "contexts": [0, 31],
    "pages": [[0], [1]],
    "outputs": [1],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": []}, "a batch needs at least one sequence and one token"),
        ({"contexts": [], "starts": [0], "pages": np.zeros((0, 1))}, "a batch needs at least one sequence"),
        ({"starts": [0, 3]}, "starts must have one value more than contexts, pages one row for each"),
        ({"pages": [[0]]}, "starts must have one value more than contexts, pages one row for each"),
        ({"starts": [1, 2, 3]}, "starts must run from 0 to the number of tokens, 3"),
        ({"starts": [0, 2, 4]}, "starts must run from 0 to the number of tokens, 3"),
        ({"starts": [0, 3, 3]}, "sequence 1 has no new token"),
        ({"starts": [0, 4, 3]}, "sequence 1 has no new token"),
        ({"tokens": [3, 320, 5]}, "token 320 is outside the vocabulary of 320"),
        ({"tokens": [-1, 4, 5]}, "token -1 is outside the vocabulary of 320"),
        ({"contexts": [0, 1024]}, "sequence 1 would have 1025 tokens, the context holds 1024"),
        ({"contexts": [-1, 31]}, "sequence 0 would have 1 tokens, the context holds 1024"),
        ({"contexts": [0, 32]}, "sequence 1 needs 2 pages, 1 are listed"),
        ({"pages": [[0], [4]]}, "page 4 of sequence 1 does not exist; the cache has 4"),
        ({"pages": [[-1], [1]]}, "page -1 of sequence 0 does not exist"),
        ({"outputs": [3]}, "output row 3 is not one of the 3 tokens"),
        ({"outputs": [-1]}, "output row -1 is not one of the 3 tokens"),
    ],
)
def test_forward_refuses(changes, message, case):
    decoder = tk.Decoder(case("llama-tensor").model.weights, 4, "f32", 1)
    arrays = {name: np.asarray(values, np.int32) for name, values in (BATCH | changes).items()}
    with pytest.raises(ValueError, match=message):
        decoder.forward(**arrays)
    good = {name: np.asarray(values, np.int32) for name, values in BATCH.items()}
    assert np.isfinite(decoder.forward(**good)).all()


def test_no_outputs_fill_the_cache_alone(case):
    decoder = tk.Decoder(case("llama-tensor").model.weights, 4, "f32", 1)
    arrays = {name: np.asarray(values, np.int32) for name, values in (BATCH | {"outputs": []}).items()}
    assert decoder.forward(**arrays).shape == (0, 320)


@pytest.mark.parametrize(
    "name", ["llama-tensor", "qwen3-group128", "gemma3-group64", "bitnet-relu2", "qwen2-group64-corrected"]
)
def test_hidden_states_are_pytorchs_after_the_final_norm(name, case):
    """Relative to their size, of each token; the same tokens flip as in the log-probabilities."""
    import torch

    given = case(name)
    text = given.texts[0]
    ids = torch.from_numpy(text).long()[None]
    with torch.no_grad():
        expected = given.model.reference(ids, output_hidden_states=True).hidden_states[-1][0].numpy()

    def error_of(weights: tk.ModelWeights) -> np.ndarray:
        decoder = tk.Decoder(weights, 4, "f32", 1)
        decoder.forward(*batch_of(text, outputs=[len(text) - 1]))
        found = decoder.hidden_states(np.arange(len(text), dtype=np.int32))
        return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)

    assert agree(error_of(given.model.weights))
    norm = given.model.weights.final_norm * np.float32(1.01)
    assert not agree(error_of(dataclasses.replace(given.model.weights, final_norm=norm)))


def batch_of(text: np.ndarray, outputs: list[int]) -> list[np.ndarray]:
    """Arguments of `forward` for one text from an empty cache."""
    pages = range(-(-len(text) // tk.PAGE_TOKENS))
    arrays = (text, [0, len(text)], [0], [[*pages]], outputs)
    return [np.asarray(array, np.int32) for array in arrays]


def test_hidden_states_are_of_the_rows_that_are_asked_for(case):
    """Of the latest pass, in any order, whether it gave logits or not; the logits stay what they are."""
    decoder = tk.Decoder(case("llama-tensor").model.weights, 4, "f32", 2)
    first, second = (np.arange(start, start + 40, dtype=np.int32) for start in (3, 100))
    logits = decoder.forward(*batch_of(first, outputs=[39]))
    states = decoder.hidden_states(np.arange(40, dtype=np.int32))
    assert (states.shape, states.dtype) == ((40, 96), np.float32)
    some = np.array([39, 0, 0], np.int32)
    np.testing.assert_array_equal(decoder.hidden_states(some), states[some])
    assert decoder.hidden_states(np.empty(0, np.int32)).shape == (0, 96)
    decoder.forward(*batch_of(second, outputs=[]))
    assert (decoder.hidden_states(some) != states[some]).any()
    np.testing.assert_array_equal(decoder.forward(*batch_of(first, outputs=[39])), logits)
    np.testing.assert_array_equal(decoder.hidden_states(some), states[some])


def test_hidden_states_refuse_rows_that_there_are_not(case):
    decoder = tk.Decoder(case("llama-tensor").model.weights, 4, "f32", 1)
    with pytest.raises(ValueError, match="row 0 is not one of the 0 tokens of the latest forward"):
        decoder.hidden_states(np.zeros(1, np.int32))
    decoder.forward(**{name: np.asarray(values, np.int32) for name, values in BATCH.items()})
    for row in (-1, 3):
        with pytest.raises(ValueError, match=f"row {row} is not one of the 3 tokens of the latest forward"):
            decoder.hidden_states(np.array([0, row], np.int32))


def test_decoder_refuses_weights_that_do_not_fit(case):
    weights = case("llama-tensor").model.weights
    first, second = weights.layers

    def with_layer(**changes: Any) -> tk.ModelWeights:
        return dataclasses.replace(weights, layers=[first, dataclasses.replace(second, **changes)])

    refused = {
        "layer 1 q is 32 x 96, the configuration wants 96 x 96": with_layer(q=second.k),
        "layer 1 q_correction is of a matrix of 32 x 96, this one is 96 x 96": with_layer(
            q_correction=tk.LowRank(np.ones((32, 2), np.float32), np.ones((2, 96), np.float32))
        ),
        "layer 1 input_norm has 95 values, the configuration wants 96": with_layer(
            input_norm=second.input_norm[1:]
        ),
        "layer 1 ffn_sub_norm has 96 values, the configuration wants 208": with_layer(
            ffn_sub_norm=second.input_norm
        ),
        "1 layers given, the configuration wants 2": dataclasses.replace(weights, layers=[first]),
        "embedding is 96 x 96, the configuration wants 320 x 96": dataclasses.replace(
            weights, embedding=first.q
        ),
    }
    for message, wrong in refused.items():
        with pytest.raises(ValueError, match=message):
            tk.Decoder(wrong, 4)
    with pytest.raises(ValueError, match=r"up \[out, rank\] and down \[rank, in\] are 32 x 2 and 3 x 96"):
        tk.LowRank(np.ones((32, 2), np.float32), np.ones((3, 96), np.float32))
    with pytest.raises(ValueError, match="unknown cache type 'f8'; known: f32, f16, int8"):
        tk.Decoder(weights, 4, "f8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_threads must be 0 \(one per core\) or more, got -1"):
        tk.Decoder(weights, 4, "f16", -1)
