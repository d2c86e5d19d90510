"""The tiny models of influence.py: real text and noise, trained on all of it and on random halves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm import tqdm

from data_handler import SourceConfig, iter_placed_documents
from data_handler.influence import ProbeSet, document_batches, next_token_losses
from data_handler.small_tokenizer import small_tokenizer

DOMAINS = ("books", "code_python_stdlib", "fineweb", "math_latex", "openstax")
NOISE = "noise"
NUM_TOKENS = 512
"""Of the vocabulary."""
SEED, TOKENS, BATCH, PEAK_RATE = 0, 96, 16, 3e-3
Batch = dict[str, Tensor]


@dataclass
class Corpus:
    """rows: documents as tokens [n, TOKENS]; domains: whose each is; probes: rows by name of the domain."""

    rows: Batch
    domains: np.ndarray
    probes: dict[str, Batch]
    tokenizer: Any


class Checkpoint(NamedTuple):
    model: Any
    optimizer: torch.optim.Optimizer
    learning_rate: float


def source(data: Path, domain: str, split: str) -> SourceConfig:
    return SourceConfig("path", domain, str(data / "pretrain" / domain / f"{split}.jsonl.gz"), repeat=False)


def joined(batches: Sequence[Batch]) -> Batch:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def read(data: Path, documents: int, probe_documents: int) -> Corpus:
    """The first TOKENS tokens of `documents` of each domain and as many of noise; probes from other files."""
    probes = {domain: ProbeSet(source(data, domain, "validation")) for domain in DOMAINS}
    texts: list[str] = []
    for domain in DOMAINS:
        placed = list(iter_placed_documents(source(data, domain, "train")))
        for probe in probes.values():
            probe.refuse_overlap(placed)
        texts += [document.text for document in spread(placed, documents)]
    others = spread(list(iter_placed_documents(source(data, "fineweb", "train"))), 2 * documents)[1::2]
    tokenizer = small_tokenizer(texts, NUM_TOKENS)
    rows = joined(list(document_batches(texts, tokenizer, TOKENS, len(texts))))
    noise = joined(list(document_batches([d.text for d in others], tokenizer, TOKENS, documents)))
    generator = torch.Generator().manual_seed(SEED)
    for row, labels in zip(noise["input_ids"], noise["labels"], strict=True):
        order = torch.randperm(TOKENS, generator=generator)
        row.copy_(row[order])
        labels[labels >= 0] = row[labels >= 0]
    domains = np.repeat([*DOMAINS, NOISE], documents)
    rows_of = {
        name: joined(
            list(
                document_batches(
                    [d.text for d in spread(probe.documents, probe_documents)], tokenizer, TOKENS, BATCH
                )
            )
        )
        for name, probe in probes.items()
    }
    return Corpus(joined([rows, noise]), domains, rows_of, tokenizer)


def spread(documents: Sequence[Any], number: int) -> list[Any]:
    """So many, evenly over the file."""
    return [documents[i] for i in np.linspace(0, len(documents) - 1, number).astype(int)]


def new_model(vocabulary: int) -> Any:
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def train(corpus: Corpus, chosen: np.ndarray, epochs: int, num_checkpoints: int) -> list[Checkpoint]:
    """AdamW on the chosen rows, each epoch in an order that does not depend on the choice."""
    model = new_model(len(corpus.tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=0.01)
    orders = np.random.default_rng(SEED)
    steps = []
    for _ in range(epochs):
        order = orders.permutation(len(corpus.domains))
        steps += np.array_split(order[np.isin(order, chosen)], -(-len(chosen) // BATCH))
    kept = {round(len(steps) * (k + 1) / num_checkpoints) for k in range(num_checkpoints)}
    checkpoints = []
    for number, part in enumerate(steps, 1):
        rate = PEAK_RATE * min(1.0, number / 10) * max(0.1, 1 - number / len(steps))
        optimizer.param_groups[0]["lr"] = rate
        batch = {name: values[part] for name, values in corpus.rows.items()}
        next_token_losses(model, batch).of_batch().backward()
        optimizer.step()
        optimizer.zero_grad()
        if number in kept:
            checkpoints.append(copied(model, optimizer, rate))
    return checkpoints


def copied(model: Any, optimizer: torch.optim.Optimizer, rate: float) -> Checkpoint:
    model = copy.deepcopy(model)
    other = torch.optim.AdamW(model.parameters(), rate)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return Checkpoint(model, other, rate)


@torch.no_grad()
def probe_losses(model: Any, probes: dict[str, Batch]) -> list[float]:
    return [float(next_token_losses(model, rows).of_batch()) for rows in probes.values()]


def retrained(corpus: Corpus, epochs: int, num_halves: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [halves, documents] and losses of the probes [halves, probes]."""
    generator = np.random.default_rng(seed)
    num_documents = len(corpus.domains)
    halves, losses = [], []
    for _ in tqdm(range(num_halves), desc="halves", unit="model"):
        chosen = generator.permutation(num_documents)[: num_documents // 2]
        (last,) = train(corpus, chosen, epochs, 1)
        halves.append(np.isin(np.arange(num_documents), chosen))
        losses.append(probe_losses(last.model, corpus.probes))
    return np.stack(halves), np.array(losses)
