"""Estimators on gradients of a trained model: a copy of what is asked for ranks first, noise last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from data_handler import SourceConfig
from data_handler.influence import (
    ESTIMATORS,
    GradientKind,
    GradientSketcher,
    ProbeSet,
    document_batches,
    next_token_losses,
)

TOKENS, EACH = 32, 6
RIVERS, SUMS, NOISE = (slice(EACH * k, EACH * (k + 1)) for k in range(3))


class Trained(NamedTuple):
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    rows: dict[str, Tensor]
    probe: ProbeSet


def river(number: int) -> str:
    return f"the river {number} runs by the town and the town by the river " * 2


def document_rows(tokenizer: Any) -> dict[str, Tensor]:
    """Texts about rivers, sums, and as many rows of tokens drawn by chance."""
    texts = [river(i) for i in range(EACH)] + [f"{i} + {i} = {2 * i}; " * 9 for i in range(EACH)]
    (rows,) = document_batches(texts, tokenizer, TOKENS, len(texts))
    noise = {name: values[::2].clone() for name, values in rows.items()}
    generator = torch.Generator().manual_seed(0)
    noise["input_ids"] = torch.randint(3, len(tokenizer), (EACH, TOKENS), generator=generator)
    noise["labels"][:, 1:] = noise["input_ids"][:, 1:]
    return {name: torch.cat([values, noise[name]]) for name, values in rows.items()}


@pytest.fixture(scope="module")
def trained(
    tokenizer: Any, write_jsonl: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """On all documents for 30 steps."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    rows = document_rows(tokenizer)
    for _ in range(30):
        next_token_losses(model, rows).of_batch().backward()
        optimizer.step()
        optimizer.zero_grad()
    texts = [river(EACH + 1), river(EACH + 2)]
    return Trained(model, optimizer, rows, ProbeSet(SourceConfig("path", "rivers", str(write_jsonl(texts)))))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_copies_rank_first_and_noise_last(name: str, trained: Trained, tokenizer: Any) -> None:
    estimator = ESTIMATORS[name]()
    sketcher = GradientSketcher(trained.model, None, 4096)
    (asked,) = trained.probe.batches(tokenizer, TOKENS, 2, one_document_a_row=True)
    with_copy = {key: torch.cat([values, asked[key][:1]]) for key, values in trained.rows.items()}

    def sketches(batch: dict[str, Tensor], kind: GradientKind) -> Tensor:
        return sketcher.per_example(batch, kind.preconditioner(trained.optimizer, trained.model))

    train = sketches(with_copy, estimator.train_kind)
    probe = sketches(asked, estimator.probe_kind)
    scores = estimator.scores(train, probe)
    means = [scores[part].mean() for part in (RIVERS, SUMS, NOISE)]
    assert means[0] == max(means)
    assert means[2] == min(means)
    assert scores[RIVERS].min() > scores[NOISE].max()
    of_one = estimator.scores(train, probe[:1])
    assert of_one.argmax() == len(of_one) - 1
