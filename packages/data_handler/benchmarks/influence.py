"""Whether estimators of influence foretell what training on other data does: the linear datamodeling score.

    uv run python packages/data_handler/benchmarks/influence.py --data ../shared/data --minutes 5

A tiny Llama is trained from scratch on every one of a few hundred documents of five domains of real text and
of one domain of noise (real documents whose tokens are shuffled), and once on each of many random halves of
them, from the same initial weights and in the same order. For a probe (documents of one domain that no
training set has) the estimator's score of a half is the sum of the scores of its documents; the linear
datamodeling score (Park et al. 2023, TRAK, arXiv 2303.14186) is Spearman's correlation, over the halves, of
these sums with minus the probe's loss, here as the mean over the probes, with a standard error of 200
bootstraps over the halves. `oracle` is a ridge regression of the losses on which documents the halves
have, in five folds: what a linear score that has seen most of the retrained models says of the others.

Beside it: where the noise ends among the domains, by the losses too, and how often a copy of a probe's
document ranks first. `--minutes` of the CPU are planned into halves: at least 50, or it is an error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from influence_models import (
    BATCH,
    DOMAINS,
    NOISE,
    SEED,
    TOKENS,
    Batch,
    Checkpoint,
    Corpus,
    probe_losses,
    read,
    retrained,
    train,
)
from torch import Tensor

from data_handler.influence import (
    DataInf,
    Estimator,
    GradientKind,
    GradientSketcher,
    Less,
    PreconditionedCosine,
    TracIn,
)
from wf_formats.environment import environment

LEAST_HALVES, NUM_BOOTSTRAPS = 50, 200


class Sketches:
    """Of all rows, kept by what was asked for; each is timed once."""

    def __init__(self, corpus: Corpus, checkpoints: list[Checkpoint], size: int) -> None:
        self._corpus, self._checkpoints, self._size = corpus, checkpoints, size
        self._made: dict[Any, tuple[Tensor, float]] = {}

    def of(self, rows: Batch, kind: GradientKind, num_checkpoints: int) -> tuple[Tensor, float]:
        """[checkpoints, n, size] of the last checkpoints, and the seconds that they took."""
        key = (id(rows), kind, num_checkpoints)
        if key not in self._made:
            start = time.process_time()
            found = [
                self._of_checkpoint(rows, kind, checkpoint)
                for checkpoint in self._checkpoints[-num_checkpoints:]
            ]
            self._made[key] = torch.stack(found), time.process_time() - start
        return self._made[key]

    def _of_checkpoint(self, rows: Batch, kind: GradientKind, checkpoint: Checkpoint) -> Tensor:
        sketcher = GradientSketcher(checkpoint.model, None, self._size, SEED)
        preconditioner = kind.preconditioner(checkpoint.optimizer, checkpoint.model)
        parts = range(0, len(rows["input_ids"]), BATCH)
        return torch.cat(
            [
                sketcher.per_example({n: v[i : i + BATCH] for n, v in rows.items()}, preconditioner)
                for i in parts
            ]
        )


def lds(scores: np.ndarray, halves: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """Mean over the probes, and its standard error.

    Args: scores [documents, probes], halves bool [halves, documents], losses [halves, probes].
    """
    sums = halves.astype(float) @ scores

    def score(chosen: np.ndarray) -> float:
        pairs = zip(sums[chosen].T, -losses[chosen].T, strict=True)
        return float(np.mean([scipy.stats.spearmanr(s, gain).statistic for s, gain in pairs]))

    generator = np.random.default_rng(SEED)
    drawn = [score(generator.integers(len(halves), size=len(halves))) for _ in range(NUM_BOOTSTRAPS)]
    return score(np.arange(len(halves))), float(np.std(drawn))


def oracle(halves: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """What linear scores fitted to the losses of four fifths of the halves say of the others'."""
    folds = np.arange(len(halves)) % 5
    design = halves.astype(float) - halves.mean(0)
    predicted = np.empty_like(losses)
    for fold in range(5):
        x, y = design[folds != fold], -losses[folds != fold]
        kernel = x @ x.T + len(x) / 10 * np.eye(len(x))
        predicted[folds == fold] = design[folds == fold] @ x.T @ np.linalg.solve(kernel, y - y.mean(0))
    pairs = zip(predicted.T, -losses.T, strict=True)
    return {"lds": round(float(np.mean([scipy.stats.spearmanr(p, gain).statistic for p, gain in pairs])), 3)}


def noise_place(domain_scores: np.ndarray) -> float:
    """Of the noise, the last of domain_scores [domains, probes], averaged over the probes; 6 is the last."""
    return round(float((domain_scores >= domain_scores[-1]).sum(0).mean()), 2)


def by_domain(scores: np.ndarray, domains: np.ndarray) -> np.ndarray:
    """Means [domains, probes] of scores [documents, probes], the noise last."""
    return np.stack([scores[domains == name].mean(0) for name in (*DOMAINS, NOISE)])


def gains_by_domain(halves: np.ndarray, losses: np.ndarray, domains: np.ndarray) -> np.ndarray:
    """What a document of each domain takes off each loss [domains, probes], by least squares."""
    counts = np.stack([halves[:, domains == name].sum(1) for name in (*DOMAINS, NOISE)], 1).astype(float)
    return np.linalg.lstsq(counts - counts.mean(0), losses.mean(0) - losses, rcond=None)[0]


def judged(
    estimator: Estimator, sketches: Sketches, corpus: Corpus, halves: np.ndarray, losses: np.ndarray
) -> dict[str, Any]:
    """Score, its cost, and the two checks of sense."""
    train, seconds = sketches.of(corpus.rows, estimator.train_kind, estimator.num_checkpoints)
    kept = [
        sketches.of(rows, estimator.probe_kind, estimator.num_checkpoints) for rows in corpus.probes.values()
    ]
    seconds += sum(probe_seconds for _, probe_seconds in kept)
    start = time.process_time()
    scores = np.stack([estimator.scores(train, probe).numpy() for probe, _ in kept], 1)
    score_seconds = time.process_time() - start
    copies_first = 0
    for rows, (probe, _) in zip(corpus.probes.values(), kept, strict=True):
        copies, _ = sketches.of(rows, estimator.train_kind, estimator.num_checkpoints)
        with_copies = torch.cat([train, copies], 1)
        for row in range(probe.shape[1]):
            found = estimator.scores(with_copies, probe[:, row : row + 1])
            others, mine = found[: train.shape[1]], found[train.shape[1] + row]
            copies_first += int(mine > others.max())
    num_copies = sum(len(rows["input_ids"]) for rows in corpus.probes.values())
    value, error = lds(scores, halves, losses)
    return {
        "lds": round(value, 3),
        "standard_error": round(error, 3),
        "noise_place_of_6": noise_place(by_domain(scores, corpus.domains)),
        "copies_of_a_probe_document_first": f"{copies_first} of {num_copies}",
        "gradients_cpu_s": round(seconds, 2),
        "scores_cpu_s": round(score_seconds, 4),
        "sketch_bytes": train.numel() * train.element_size(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/DOMAIN/SPLIT.jsonl.gz")
    parser.add_argument("--minutes", type=float, default=5, help="of the CPU, for the models of the halves")
    parser.add_argument("--documents", type=int, default=24, help="of each domain")
    parser.add_argument("--probe-documents", type=int, default=12, help="of each domain")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--checkpoints", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 8192, 65536], help="of the sketches")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = read(options.data, options.documents, options.probe_documents)
    start = time.process_time()
    checkpoints = train(corpus, np.arange(len(corpus.domains)), options.epochs, options.checkpoints)
    full_s = time.process_time() - start
    num_halves = int(60 * options.minutes / (full_s / 2))
    if num_halves < LEAST_HALVES:
        parser.error(f"{num_halves} halves fit into {options.minutes} minutes; {LEAST_HALVES} tell something")
    halves, losses = retrained(corpus, options.epochs, num_halves, SEED + 1)
    rates = [checkpoint.learning_rate for checkpoint in checkpoints]
    estimators: dict[str, Callable[[], Estimator]] = {
        "tracin": lambda: TracIn(rates),
        "tracin_last_checkpoint": TracIn,
        "datainf": DataInf,
        "preconditioned_cosine": PreconditionedCosine,
        "less": lambda: Less(rates),
    }
    random = np.random.default_rng(SEED + 2).normal(size=(len(corpus.domains), losses.shape[1]))
    report = {
        "environment": environment("torch", "transformers"),
        "documents": len(corpus.domains),
        "tokens_of_a_document": TOKENS,
        "epochs": options.epochs,
        "weights": sum(p.numel() for p in checkpoints[-1].model.parameters()),
        "weights_of_gradients": GradientSketcher(checkpoints[-1].model).num_weights,
        "training_cpu_s": round(full_s, 2),
        "halves": len(halves),
        "probe_loss_of_all_documents": dict(
            zip(corpus.probes, probe_losses(checkpoints[-1].model, corpus.probes), strict=True)
        ),
        "probe_loss_spread_over_halves": dict(zip(corpus.probes, losses.std(0).tolist(), strict=True)),
        "oracle": oracle(halves, losses),
        "noise_place_of_6_by_losses": noise_place(gains_by_domain(halves, losses, corpus.domains)),
        "random": {"lds": round(lds(random, halves, losses)[0], 3)},
        "sizes": {},
    }
    for size in options.sizes:
        sketches = Sketches(corpus, checkpoints, size)
        report["sizes"][size] = {
            name: judged(make(), sketches, corpus, halves, losses) for name, make in estimators.items()
        }
    text = json.dumps(report, indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
