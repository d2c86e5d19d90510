"""Log-probabilities against two independent sources: transformers and llama.cpp's server."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wrinklefree_inference import EngineError, Scorer
from wrinklefree_inference.engines.log_softmax import log_softmax_at
from wrinklefree_inference.llamacpp import api as llama
from wrinklefree_inference.llamacpp.engine import LlamaCppEngine
from wrinklefree_inference.llamacpp.handles import (
    FLASH_ATTN_WORD,
    GGML_TYPES,
    TYPE_K_WORD,
    ContextOptions,
    load_model,
    new_context,
)
from wrinklefree_inference.llamacpp.scorer import GgufScorer

TEXT = (
    "The cat sat on the mat, and the dog lay by the fire. In 1905 Albert Einstein published four "
    "papers that changed physics: on the photoelectric effect, Brownian motion, special "
    "relativity and the equivalence of mass and energy."
)


@pytest.fixture(scope="module")
def small(small_gguf: Path):
    with GgufScorer(small_gguf, context_tokens=300, num_threads=1, batch_tokens=32) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def theirs(packaged_model_dir: Path) -> Any:
    """The same weights in transformers, from its own reading of the packaged file."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(packaged_model_dir, num_hidden_layers=2, dtype=torch.float32)


@pytest.mark.slow
def test_equals_transformers_on_the_same_file(small: GgufScorer, theirs: Any):
    """f32 weights: what is left is the f16 KV cache (mean 1e-3); a scale off by 1 % shows."""
    import torch

    ids = small.tokenize(TEXT)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    scores = small.score(ids)
    wanted = expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    difference = np.abs(scores.logprobs - wanted)
    assert difference.mean() < 3e-3
    assert difference.max() < 2e-2
    greedy = (expected.argmax(-1).numpy() == np.array(ids[1:])).tolist()
    assert scores.is_greedy.tolist() == greedy

    model = copy.deepcopy(theirs)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.01)
        moved = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    off = moved.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    assert np.abs(off - scores.logprobs).mean() > 10 * difference.mean()


def test_equals_the_server_token_by_token(small: GgufScorer, small_gguf: Path):
    """The server's raw log-probability of a token that `logit_bias` forces."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(small_gguf), 512, 1
    params.cpuparams.n_threads, params.verbosity, params.warmup = 1, -1, False
    server = xllamacpp.Server(params)
    ids = small.tokenize(TEXT)[:16]
    found = []
    for k in range(1, len(ids)):
        reply = server.handle_completions(
            {
                "prompt": ids[:k],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 1,
                "ignore_eos": True,
                "logit_bias": [[ids[k], 1000.0]],
            }
        )
        (entry,) = reply["choices"][0]["logprobs"]["content"]
        assert entry["id"] == ids[k]
        found.append(entry["logprob"])
    np.testing.assert_allclose(small.score(ids).logprobs, found, atol=1e-2)


def test_start_gives_the_tail_of_all_scores_and_repeats_exactly(small: GgufScorer):
    ids = small.tokenize(TEXT)
    whole = small.score(ids)
    np.testing.assert_array_equal(small.score(ids).logprobs, whole.logprobs)
    for start in (1, 2, 31, 32, 33, len(ids) - 1):
        tail = small.score(ids, start)
        # a single row goes through another matrix kernel, so the last bits differ
        np.testing.assert_allclose(tail.logprobs, whole.logprobs[start - 1 :], atol=1e-4)
        np.testing.assert_array_equal(tail.is_greedy, whole.is_greedy[start - 1 :])


def test_a_shared_beginning_is_processed_once(small: GgufScorer, monkeypatch: pytest.MonkeyPatch):
    """And gives what an empty cache gives; start = 1 leaves nothing to reuse."""
    ids = small.tokenize(TEXT)
    endings = [ids[:40] + small.tokenize(end) for end in (" one two", " three", " one four")]
    counts: list[int] = []
    process = small._process

    def counted(ids, begin, end, start):
        counts.append(end - begin)
        process(ids, begin, end, start)

    monkeypatch.setattr(small, "_process", counted)
    small.score([5, 6])
    for ending in endings:
        counts.clear()
        reused = small.score(ending, 40).logprobs
        assert sum(counts) == (len(ending) - 1 if ending is endings[0] else len(ending) - 40)
        counts.clear()
        fresh = small.score(ending).logprobs
        assert sum(counts) == len(ending) - 1
        np.testing.assert_allclose(reused, fresh[39:], atol=1e-4)


def test_tokenizes_like_the_model_s_own_tokenizer(small: GgufScorer, packaged_model_dir: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packaged_model_dir)
    for text in (TEXT, "", " leading", "déjà vu 猫 \n\n\tx", "<|im_start|>user"):
        assert small.tokenize(text) == tokenizer(text, split_special_tokens=True).input_ids
        assert small.detokenize(small.tokenize(text)) == text
    assert small.tokenize("<|im_start|>", parse_special=True) == [tokenizer.bos_token_id]


def test_facts_of_the_model(small: GgufScorer):
    assert (small.vocab_size, small.trained_context_tokens) == (49152, 8192)
    assert not small.adds_bos
    assert small.num_parameters == 49152 * 576 + 2 * 3540096 + 576


@pytest.mark.parametrize(
    ("ids", "start", "message"),
    [
        (list(range(301)), 1, "301 ids do not fit the context of 300"),
        ([1, 2, 3], 0, r"start must be in \[1, 2\], got 0"),
        ([1, 2, 3], 3, "start must be"),
        ([1], 1, "start must be"),
        ([1, 49152], 1, "id 49152 is outside the vocabulary of 49152"),
        ([-1, 5], 1, "id -1 is outside"),
    ],
)
def test_refuses_what_cannot_be_scored(small: GgufScorer, ids, start, message):
    with pytest.raises(ValueError, match=message):
        small.score(ids, start)


def test_closed_scorer_says_so(small_gguf: Path):
    scorer = GgufScorer(small_gguf, context_tokens=32, num_threads=1)
    scorer.close()
    scorer.close()
    with pytest.raises(ValueError, match="closed"):
        scorer.score([1, 2])


def test_a_changed_parameter_layout_is_noticed(small_gguf: Path, monkeypatch):
    """As if a release had put another field first."""
    model = load_model(small_gguf)
    api = llama.library()
    monkeypatch.setattr(api, "llama_n_ubatch", api.llama_n_ctx)
    with pytest.raises(EngineError, match=r"lays out llama_context_params differently"):
        new_context(model, ContextOptions(512, 64, 1))
    monkeypatch.undo()
    api.llama_model_free(model)


@pytest.mark.parametrize("word", [FLASH_ATTN_WORD, TYPE_K_WORD])
def test_a_moved_cache_type_is_noticed(small_gguf: Path, monkeypatch, word):
    """As if the type of the cache, or the choice of attention, stood elsewhere."""
    model, api = load_model(small_gguf), llama.library()
    params = api.llama_context_default_params()
    params.words[word] = 7
    monkeypatch.setattr(api, "llama_context_default_params", lambda: params)
    with pytest.raises(EngineError, match=r"lays out llama_context_params differently"):
        new_context(model, ContextOptions(512, 64, 1, cache_type="f32"))
    monkeypatch.undo()
    api.llama_model_free(model)


def test_a_cache_type_without_effect_is_noticed(small_gguf: Path, monkeypatch):
    """llama.cpp's log is asked what it made."""
    model = load_model(small_gguf)
    monkeypatch.setitem(GGML_TYPES, "f32", GGML_TYPES["f16"])
    with pytest.raises(EngineError, match=r"asked for a cache with K \(f32\) and V \(f32\)"):
        new_context(model, ContextOptions(512, 64, 1, cache_type="f32"))
    llama.library().llama_model_free(model)


def test_a_cache_of_f32_is_nearer_to_transformers(small_gguf: Path, small: GgufScorer, theirs: Any):
    import torch

    ids = small.tokenize(TEXT)
    with torch.no_grad():
        table = theirs(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    expected = table.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    exact = GgufScorer(small_gguf, 300, num_threads=1, cache_type="f32", flash_attention=False)
    with exact:
        errors = [np.abs(s.score(ids).logprobs - expected).max() for s in (exact, small)]
    assert errors[0] < 1e-4 < errors[1]


def test_log_softmax_is_stable_for_large_logits():
    row = np.array([[1000.0, 999.0, -1000.0]], dtype=np.float32)
    logprobs, best = log_softmax_at(row, np.array([0]))
    assert best == [0]
    assert logprobs[0] == pytest.approx(-np.log1p(np.exp(-1.0)))


def test_the_engine_is_a_scorer(engine: LlamaCppEngine):
    assert isinstance(engine, Scorer)
    assert engine.score(engine.tokenize("Paris is the capital of France")).logprobs.shape == (5,)
