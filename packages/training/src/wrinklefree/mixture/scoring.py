"""How steps on the sources would help the probes, by gradients.

A turn takes sequences of every source and of every probe, with the model as it stands:

1. the mean gradient of each over the chosen matrices, divided by the root of the optimizer's second moments,
   as a sketch (data_handler.influence);
2. inner products of those of the sources, with each other and with the probes' (policy.GradientProducts), of
   which mixture/influence.py makes weights.

In ternary training gradients are those of the latent weights, straight through the rounding.

The sequences come from loaders of their own, so the data that is trained on, random state, gradients and
optimizer stay as they are, to the bit. Every rank reads the same ones and scores its share of the batches, so
what is found does not depend on how many ranks there are, up to rounding. Cost of a turn: `sequences` of each
source and `probe_sequences` of each probe, forward and backward, without an optimizer's step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import normalize

from data_handler import DataError, SourceConfig, make_loader
from data_handler.held_out import HeldOut
from data_handler.influence import (
    GradientSketcher,
    LossSums,
    ProbeSet,
    SecondMoments,
)
from data_handler.packing import IGNORED_LABEL
from wrinklefree.changed_data import changed_sources
from wrinklefree.config.mixture import InfluenceConfig
from wrinklefree.config.optimizer import OptimizerConfig
from wrinklefree.config.root import ChangedData
from wrinklefree.cross_entropy import chunked_cross_entropy
from wrinklefree.datamodule import num_labels
from wrinklefree.distributed import num_ranks, rank
from wrinklefree.forward import run_forward
from wrinklefree.mixture.policy import GradientProducts

LOG = logging.getLogger("wrinklefree")
_CHUNK_TOKENS = 512
_SEED = 2**32
"""Added to the run's, which is smaller: other documents at other times than those that are trained on."""
_SPREAD = 8
"""Reading costs a hundredth of a gradient, or less."""
_NAMES = ("input_ids", "position_ids", "labels")
Batch = dict[str, Tensor]


class Sequences(NamedTuple):
    """What text becomes."""

    tokenizer: Any
    length_tokens: int
    batch_size: int


def next_token_losses(model: Any, batch: Mapping[str, Tensor]) -> LossSums:
    """As the trainer computes them: logits exist for a chunk of one sequence at a time."""
    found = run_forward(model, {name: batch[name] for name in ("input_ids", "position_ids")})
    assert found.head_weight is not None
    head, labels = found.head_weight.detach(), batch["labels"]
    counts = (labels[:, 1:] != IGNORED_LABEL).sum(1)
    means = [
        chunked_cross_entropy(hidden[None], head, row[None], _CHUNK_TOKENS)
        for hidden, row in zip(found.last_hidden_state, labels, strict=True)
    ]
    return LossSums(torch.stack(means) * counts, counts)


class Cursor:
    """Batches of one source for scoring, the same on every rank.

    One of `_SPREAD` sequences is scored, so that a long document does not make a whole batch.
    """

    def __init__(self, source: SourceConfig, sequences: Sequences, seed: int, held_out: HeldOut) -> None:
        self._batch_size = sequences.batch_size
        self._loader = make_loader(
            [source], sequences.tokenizer, sequences.length_tokens, _SPREAD, _SEED + seed, held_out=held_out
        )
        self._read: Iterator[dict[str, Any]] | None = None

    def take(self, num_batches: int) -> list[Batch]:
        if self._read is None:
            self._read = iter(self._loader)
        return [self._batch(list(islice(self._read, self._batch_size))) for _ in range(num_batches)]

    def _batch(self, read: Sequence[dict[str, Any]]) -> Batch:
        return {name: torch.cat([found[name][:1] for found in read]) for name in _NAMES}

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], changed: ChangedData | None) -> None:
        differs = changed_sources(state["fingerprint"], self._loader.state_dict()["fingerprint"])
        if not (differs and changed is ChangedData.fresh):
            self._loader.load_state_dict(state, accept_changed=bool(differs))


class SourceScorer:
    """
    Args:
        model: that is trained; its state at the time of a turn counts.
        held_out: what keeps the probes' documents out of the sequences of the sources.

    Raises:
        DataRequestError: matrices that the model does not have, or whose gradients cannot be taken.
        DataError: a probe without a token to predict.
    """

    def __init__(
        self,
        options: InfluenceConfig,
        model: Any,
        sources: Sequence[SourceConfig],
        probes: Sequence[ProbeSet],
        sequences: Sequences,
        seed: int,
        held_out: HeldOut,
    ) -> None:
        self._options, self._model = options, model
        self._sketcher = GradientSketcher(
            model, options.matrices or None, options.sketch_size, losses=next_token_losses
        )
        self._cursors = {source.name: Cursor(source, sequences, seed, held_out) for source in sources}
        self._probes = {probe.name: _batches_of(probe, sequences) for probe in probes}
        self._num_batches = -(-options.sequences // sequences.batch_size)
        self._num_probe_batches = -(-options.probe_sequences // sequences.batch_size)
        self._turns = 0
        self._has_told = False

    def products(self, trainer: L.Trainer, optimizer_config: OptimizerConfig) -> GradientProducts:
        """The same on every rank (called on all of them)."""
        preconditioner = self._preconditioner(trainer, optimizer_config)
        batches = [cursor.take(self._num_batches) for cursor in self._cursors.values()]
        batches += [in_turn(probe, self._num_probe_batches, self._turns) for probe in self._probes.values()]
        self._turns += 1
        with trainer.precision_plugin.forward_context():
            sketches = _mean_sketches(trainer, self._sketcher, preconditioner, batches)
        of_sources, of_probes = sketches.split([len(self._cursors), len(self._probes)])
        return gradient_products(of_sources, of_probes, [probe.weight for probe in self._options.probes])

    def _preconditioner(self, trainer: L.Trainer, config: OptimizerConfig) -> SecondMoments | None:
        """By the optimizer's second moments, where it has those of all matrices as numbers."""
        if not self._options.precondition:
            return None
        optimizer, betas = trainer.optimizers[0], (config.beta1, config.beta2)
        states = [
            optimizer.state.get(self._model.get_parameter(name), {}) for name in self._sketcher.matrices
        ]
        if all(
            isinstance(second := state.get("exp_avg_sq"), Tensor) and second.is_floating_point()
            for state in states
        ):
            return SecondMoments(optimizer, self._model, betas=betas, eps=config.eps)
        if not self._has_told:
            LOG.warning(
                "training.mixture.influence.precondition: the optimizer keeps no second moments of the "
                "matrices as numbers, so gradients are compared as they are (optimizer=adamw has them, with "
                "optimizer.state=float32 or bf16)"
            )
            self._has_told = True
        return None

    def state_dict(self) -> dict[str, Any]:
        cursors = {name: cursor.state_dict() for name, cursor in self._cursors.items()}
        return {"turns": self._turns, "cursors": cursors}

    def load_state_dict(self, state: Mapping[str, Any], changed: ChangedData | None) -> None:
        """Args: changed is what to do where the data has changed since, as the run's own data does."""
        self._turns = state["turns"]
        for name, cursor in self._cursors.items():
            cursor.load_state_dict(state["cursors"][name], changed)


def gradient_products(of_sources: Tensor, of_probes: Tensor, weights: Sequence[float]) -> GradientProducts:
    """Of sketches [sources, size] and [probes, size]; a weight for each probe."""
    sources, tiny = of_sources.double(), torch.finfo(torch.double).tiny
    asked = torch.tensor(weights, dtype=torch.double, device=sources.device) @ normalize(of_probes.double())
    sources = sources / sources.square().sum(1).mean().sqrt().clamp(min=tiny)
    return GradientProducts((sources @ sources.T).tolist(), (sources @ asked).tolist())


def in_turn(batches: Sequence[Batch], count: int, turn: int) -> list[Batch]:
    """So many, others each turn; all where there are no more."""
    count = min(count, len(batches))
    return [batches[(turn * count + number) % len(batches)] for number in range(count)]


def _batches_of(probe: ProbeSet, sequences: Sequences) -> list[Batch]:
    batches = list(probe.batches(*sequences))
    if not any(num_labels(batch["labels"]) for batch in batches):
        raise DataError(
            f"the probe {probe.name!r} has no token to predict: its documents are of one token; give longer "
            "ones"
        )
    return batches


def _mean_sketches(
    trainer: L.Trainer,
    sketcher: GradientSketcher,
    preconditioner: SecondMoments | None,
    batches: Sequence[Sequence[Batch]],
) -> Tensor:
    """float32 [len(batches), size]: of the mean loss over the labels of each entry's batches, which the ranks
    share. Zeros where there is no label."""
    totals = torch.zeros(len(batches), sketcher.size + 1, device=trainer.strategy.root_device)
    pairs = [(row, batch) for row, group in enumerate(batches) for batch in group]
    for row, batch in pairs[rank() :: num_ranks()]:
        if count := int(num_labels(batch["labels"])):
            totals[row, :-1] += count * sketcher.mean(batch, preconditioner)
            totals[row, -1] += count
    if num_ranks() > 1:
        summed: Any = trainer.strategy.reduce(totals, reduce_op="sum")
        totals = summed
    return totals[:, :-1] / totals[:, -1:].clamp(min=1)
