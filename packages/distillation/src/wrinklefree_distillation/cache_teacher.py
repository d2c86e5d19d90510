"""Writes the targets of a run's teacher once, for `model.teacher.kind=cached`.

It takes the overrides of the run, reads its batches in their order and writes a shard for every so many
sequences; a sequence that is there already is passed over, so the same command goes on where it was stopped,
with the same draws.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitnet_arch.model_tokenizer import save_tokenizer
from data_handler.loader import make_loader
from wf_formats.atomic import atomic_write_json
from wf_formats.boundary import boundary, given_path
from wrinklefree.capture import Capture, View
from wrinklefree.command_line import refuse_below_one
from wrinklefree.compose.composing import compose_config
from wrinklefree.config.lengths import gradient_options, run_lengths
from wrinklefree.config.root import TrainConfig
from wrinklefree.errors import RunError
from wrinklefree.mixture.checks import refuse_moving
from wrinklefree.mixture.registry import first_sources
from wrinklefree.predictions import DensePredictions
from wrinklefree.teachers.local import LocalTeacher, LocalTeacherConfig
from wrinklefree_distillation.config import DISTILL
from wrinklefree_distillation.sampling import systematic_draws
from wrinklefree_distillation.target_cache import (
    FACTS_FILE,
    TOKENIZER_FOLDER,
    CacheFacts,
    TargetCache,
    facts_as_json,
    read_facts,
    sequence_keys,
)

LOG = logging.getLogger("wrinklefree")
_CHUNK_TOKENS = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    refuse_below_one(parser, options, "draws", "shard_sequences")
    if not options.temperature > 0:
        parser.error(f"--temperature is {options.temperature:g}; give a number above 0")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    with boundary("stopped; the same command goes on after the last shard"):
        _run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the sampled targets of a teacher for the text of a run.",
        epilog="example: cache_teacher.py --output targets training.max_steps=500; then the same run with "
        "model.teacher.kind=cached model.teacher.folder=targets",
    )
    parser.add_argument("--output", type=given_path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--draws", type=int, default=12, help="of each token (default: 12)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the teacher (default: 1)")
    parser.add_argument("--shard-sequences", type=int, default=256, help="in a file (default: 256)")
    parser.add_argument("overrides", nargs="*", help="of the run: model, data, lengths, model.teacher")
    return parser


def _run(options: argparse.Namespace) -> None:
    config = compose_config(options.overrides, DISTILL)
    if not isinstance(config.model.teacher, LocalTeacherConfig):
        raise RunError(
            f"model.teacher.kind={config.model.teacher.kind} gives no logits to draw from: leave it out"
        )
    if (minutes := gradient_options(config).minutes) is not None:
        raise RunError(
            f"training.minutes={minutes:g} does not say how much text the run will read: give "
            "training.max_steps, here and for the run"
        )
    refuse_moving(config, "targets that are written before")
    teacher = LocalTeacher.load(config.model.teacher, config)
    facts = _facts(config, teacher, options)
    cache = _open(options.output, facts, teacher)
    for keys, draws in _shards(config, teacher, cache, options.shard_sequences):
        cache.write(keys, draws)
        LOG.info("%d sequences in %s", len(cache), options.output)
    sys.stdout.write(f"{len(cache)} sequences of {facts.sequence_length_tokens} tokens in {options.output}\n")


def _facts(config: TrainConfig, teacher: LocalTeacher, options: argparse.Namespace) -> CacheFacts:
    assert teacher.shape is not None
    assert teacher.shape.vocab_size is not None
    wanted, model = config.model.teacher, config.model
    source, name = (wanted.source, wanted.name) if wanted.source else (model.source, model.name)
    length = gradient_options(config).sequence_length_tokens
    shown = f"{source.value} {name or ''}".strip()
    return CacheFacts(options.temperature, options.draws, teacher.shape.vocab_size, length, shown)


def _open(folder: Path, facts: CacheFacts, teacher: LocalTeacher) -> TargetCache:
    """Raises: RunError for a folder of other targets, or of something else."""
    if folder.exists() and any(folder.iterdir()):
        if (there := read_facts(folder)) != facts:
            raise RunError(f"{folder} holds other targets ({there}; here {facts}): give another --output")
        return TargetCache(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(teacher.tokenizer, folder / TOKENIZER_FOLDER)
    atomic_write_json(folder / FACTS_FILE, facts_as_json(facts))
    return TargetCache(folder)


def _shards(
    config: TrainConfig, teacher: LocalTeacher, cache: TargetCache, shard_sequences: int
) -> Iterator[tuple[list[bytes], Tensor]]:
    """Keys and draws of the sequences that are not there yet."""
    found: dict[bytes, Tensor] = {}
    for view in _batches(config, teacher.tokenizer):
        keys = sequence_keys(view)
        if any(key not in cache and key not in found for key in keys):
            found |= {k: d for k, d in _drawn(teacher, view, keys, cache.facts) if k not in cache}
        if len(found) >= shard_sequences:
            yield list(found), torch.stack(list(found.values()))
            found = {}
    if found:
        yield list(found), torch.stack(list(found.values()))


def _batches(config: TrainConfig, tokenizer: Any) -> Iterator[View]:
    training, lengths = gradient_options(config), run_lengths(config)
    loader = make_loader(
        first_sources(training.mixture, config.data.sources),
        tokenizer,
        training.sequence_length_tokens,
        training.batch_size,
        seed=config.seed,
        rank=0,
        world_size=1,
        num_workers=config.data.num_workers,
    )
    for _, batch in zip(range(lengths.max_steps * training.accumulate_steps), loader, strict=False):
        yield {name: batch[name] for name in ("input_ids", "position_ids")}


def _drawn(
    teacher: LocalTeacher, view: View, keys: list[bytes], facts: CacheFacts
) -> Iterator[tuple[bytes, Tensor]]:
    """Draws [tokens, n] of each sequence, from a generator that its key seeds."""
    predictions = teacher.forward(view, Capture(predictions=True)).predictions
    assert isinstance(predictions, DensePredictions)
    for key, hidden in zip(keys, predictions.hidden, strict=True):
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "little"))
        parts = [
            systematic_draws(
                (rows @ predictions.head_weight.T).float() / facts.temperature, facts.num_draws, generator
            )
            for rows in hidden.split(_CHUNK_TOKENS)
        ]
        yield key, torch.cat(parts)
