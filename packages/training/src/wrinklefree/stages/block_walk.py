"""What the stages that work block by block (1.5, 2.5) share: their text, and the walk through the blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from torch import Tensor

import bitnet_arch
import wf_ptq
from data_handler import token_block
from wrinklefree.config.root import TrainConfig
from wrinklefree.errors import RunError
from wrinklefree.stages.base import StageContext

LOG = logging.getLogger("wrinklefree")


def read_tokens(
    config: TrainConfig,
    tokenizer: Any,
    vocab_size: int,
    num_sequences: int,
    length: int,
    enough: int | None = None,
) -> Tensor:
    """Ids [sequences, length] of the run's text: `num_sequences`, or where it has fewer at least `enough`.

    Raises: RunError (ids of another vocabulary), DataError (too little text, or more than memory holds).
    """
    least = None if enough is None else enough * length
    LOG.info("reading %d tokens of text", num_sequences * length)
    ids = token_block(config.data.sources, tokenizer, num_sequences * length, length, config.seed, least)
    try:
        bitnet_arch.check_ids(ids, vocab_size, length)
    except ValueError as error:
        raise RunError(f"calibration text: {error}") from error
    return ids


def walk(
    context: StageContext, student: Any, teacher: Any, ids: Tensor, method: wf_ptq.BlockMethod, group: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and report of each block, as wf_ptq.walk_blocks yields them; finished ones are the run's parts.

    Args: group of `training` has the options.
    Raises: RunError that names the block, for what cannot be solved in it.
    """
    seed, parts = context.config.seed, context.run.parts
    try:
        yield from wf_ptq.walk_blocks(student, teacher, ids, method, parts, seed)
    except wf_ptq.BlockError as error:
        raise RunError(f"{error} (keys of training.{group})") from error
