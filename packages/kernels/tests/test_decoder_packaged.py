"""The packaged SmolLM2-135M converted (not trained), on real text, against PyTorch.

Its first two layers are judged as the random models are (test_decoder.py), with differences relative to the
spread of the log-probabilities (8 to 15 nats here) and on short texts: a flip in a key or value moves all
tokens that follow. Measured: lower quartile 3e-5 to 5e-5, with scales off by 1 % at least 2e-2.

All thirty layers are chaotic: a rounding that flips by 1e-7 grows to tenths of a nat. So the whole model is
judged as `wf_converter.verify` does it: by the log-probabilities of the text's own tokens, the common scale
error that explains their differences best, and the perplexities. Measured on 192 tokens of WikiText-2
(conftest.pin_to_packed is the reference):

FIGURES
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ternary_kernels as tk

logger = logging.getLogger(__name__)
TOLERANCE = 2e-4
NUM_TOKENS = 192
MAX_SCALE_ERROR = 0.005
MEAN_TOLERANCE = 0.25
"""Nats."""
SCHEMES = ["tensor", "group64"]


@pytest.fixture(scope="module")
def text_ids(packaged_model_dir: Path, shared_data: Path) -> np.ndarray:
    """Token ids of real text: calibration, then NUM_TOKENS to score."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_model_dir)
    with gzip.open(
        shared_data / "pretrain" / "wikitext2_raw" / "test.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        records = [json.loads(line)["text"] for _, line in zip(range(3), lines, strict=False)]
    return np.array(tokenizer("\n".join(records)).input_ids[: 2048 + NUM_TOKENS], np.int32)


@pytest.fixture(scope="module")
def converted(
    packaged_model_dir: Path, text_ids: np.ndarray, feeding: SimpleNamespace, tmp_path_factory
) -> Callable[[str, int], Any]:
    """Factory: the first layers of the packaged model, converted."""
    import torch
    import transformers

    def make(scheme: str, num_layers: int) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            packaged_model_dir, num_hidden_layers=num_layers
        )
        calibration = torch.tensor(text_ids[:-NUM_TOKENS].reshape(4, -1), dtype=torch.long)
        return feeding.convert_and_pin(
            model, scheme, calibration, tmp_path_factory.mktemp("packaged") / "model"
        )

    return make


@pytest.fixture
def log_probs(feeding: SimpleNamespace) -> Callable[[tk.ModelWeights, np.ndarray], np.ndarray]:
    """Log-probabilities [tokens, vocab] by the decoder, in chunks of 61."""

    def run(weights: tk.ModelWeights, ids: np.ndarray) -> np.ndarray:
        table = feeding.page_table([len(ids)], seed=0)
        decoder = tk.Decoder(weights, int(table.max()) + 1, "f32", 1)
        calls = [[(0, min(61, len(ids) - start))] for start in range(0, len(ids), 61)]
        return feeding.log_softmax(feeding.feed(decoder, [ids], calls, table)[0])

    return run


@pytest.mark.parametrize("scheme", SCHEMES)
def test_first_layers_agree_and_a_scale_off_by_one_percent_does_not(scheme, converted, text_ids, feeding):
    model = converted(scheme, 2)
    texts = [text_ids[start : start + 8] for start in range(0, 960, 40)]
    expected = np.concatenate(model.expected(texts))
    lengths = [len(text) for text in texts]
    table = feeding.page_table(lengths, seed=0)

    def quartile(weights: tk.ModelWeights) -> float:
        decoder = tk.Decoder(weights, len(texts), "f32", 1)
        logits = feeding.feed(decoder, texts, feeding.schedule("chunks", lengths), table)
        delta = feeding.log_softmax(np.concatenate(logits)) - expected
        return float(np.quantile(np.sqrt((delta**2).mean(-1)), 0.25) / expected.std())

    assert quartile(model.weights) <= TOLERANCE
    assert quartile(model.with_scales(1.01)) > 5 * TOLERANCE
    assert quartile(model.with_scales(1.01, layer=1)) > 5 * TOLERANCE


def next_token_scores(log_probs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return log_probs[np.arange(len(ids) - 1), ids[1:]]


def sensitivity(model: Any, ids: np.ndarray, step: float = 0.01) -> np.ndarray:
    """d log-prob / d ln(scale) per token, all scales together, without roundings. Changes the reference."""
    scores = []
    for gain in (1 + step, 1 - step):
        for module in model.reference.modules():
            if hasattr(module, "unrounded_gain"):
                module.unrounded_gain = gain
        scores.append(next_token_scores(model.expected([ids])[0], ids))
    return (scores[0] - scores[1]) / (2 * step)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_whole_model_scores_text_as_pytorch_does(scheme, converted, text_ids, log_probs):
    model = converted(scheme, 30)
    ids = text_ids[-NUM_TOKENS:]
    expected = next_token_scores(model.expected([ids])[0], ids)
    found = {
        factor: next_token_scores(log_probs(model.with_scales(factor), ids), ids)
        for factor in (1.0, 1.01, 0.99)
    }
    slope = sensitivity(model, ids)
    errors, noise = {}, {}
    for factor, scores in found.items():
        delta = scores - expected
        errors[factor] = float(slope @ delta / (slope @ slope))
        residual = delta - errors[factor] * slope
        noise[factor] = float(np.sqrt(residual @ residual / (len(delta) - 1) / (slope @ slope)))
        logger.info(
            "%s scales x %g: fitted %+.2f +- %.2f %%",
            scheme,
            factor,
            100 * errors[factor],
            100 * noise[factor],
        )
    mean_delta = float(np.abs(found[1.0] - expected).mean())
    perplexities = [float(np.exp(-scores.mean())) for scores in (found[1.0], expected)]
    logger.info("%s mean difference %.4f nats, perplexities %s", scheme, mean_delta, perplexities)
    assert mean_delta <= MEAN_TOLERANCE
    assert perplexities[0] == pytest.approx(perplexities[1], rel=0.05)
    assert abs(errors[1.0]) <= MAX_SCALE_ERROR
    assert errors[1.01] > MAX_SCALE_ERROR
    assert errors[0.99] < -MAX_SCALE_ERROR
