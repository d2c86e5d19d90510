"""Through the blocks of a converted model, each quantized towards the full-precision one.

Two streams of hidden states walk side by side: the full-precision model's, and that of the blocks as
quantized so far, so that a block also answers for the errors of those before it. Per block
1. a `BlockMethod` changes its weights in place, given the quantized stream before it and the
   full-precision stream after it;
2. the block is stored, and taken from the store again: what was mapped from a file takes no memory;
3. the quantized stream passes through it.
A block that is in the store already only lets the streams pass: a walk that was stopped goes on with the
same result to the bit. Memory: four streams, one of each model before and after a block, and what the
method needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from bitnet_arch.families import blocks
from wf_formats.errors import UserError
from wf_ptq.streams import BlockRunner


class BlockMethod(Protocol):
    """Quantizes one block."""

    def quantize_block(
        self, run: BlockRunner, block: nn.Module, inputs: Tensor, targets: Tensor, seed: int
    ) -> Any:
        """Changes the block's parameters in place and returns a report, a dataclass of figures.

        Args:
            run: of the model that the block belongs to.
            block: converted; its BitLinears hold full-precision weights.
            inputs: quantized stream before the block [sequences, tokens, hidden].
            targets: full-precision stream after it, the same shape.
            seed: of whatever is random.
        Raises:
            ValueError: the block cannot be quantized.
        """
        ...


class BlockStore(Protocol):
    """Where finished blocks are kept, by name."""

    def __contains__(self, name: str) -> bool: ...

    def save(self, name: str, tensors: Mapping[str, Tensor], report: Mapping[str, Any]) -> None: ...

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]: ...


class BlockError(UserError, ValueError):
    """A block cannot be solved; the message names it."""


def walk_blocks(
    model: Any, teacher: Any, input_ids: Tensor, method: BlockMethod, store: BlockStore, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields name and report of each block when the streams have passed it.

    Args:
        model: converted, changed in place; `bitnet_arch.set_precision` says how its products are computed.
        teacher: the full-precision model, in the dtype to compute in.
        input_ids: [sequences, tokens].
        seed: block i gets seed + i.
    Raises:
        BlockError: a block cannot be quantized.
    """
    run, teacher_run = BlockRunner(model), BlockRunner(teacher)
    teacher_blocks = dict(blocks(teacher))
    expected = found = teacher.model.embed_tokens(input_ids)
    for index, (name, block) in enumerate(blocks(model)):
        inputs, expected = found, teacher_run.stream(teacher_blocks[name], expected)
        if name not in store:
            try:
                report = method.quantize_block(run, block, inputs, expected, seed + index)
            except ValueError as error:
                raise BlockError(f"{name}: {error}") from error
            store.save(name, block.state_dict(), dataclasses.asdict(report))
        figures = take_block(store, name, block)
        found = run.stream(block, inputs)
        yield name, figures


def take_block(store: BlockStore, name: str, block: nn.Module) -> dict[str, Any]:
    """Takes the block's tensors from the store, as they are (mapped from a file); returns the report."""
    tensors, report = store.load(name)
    block.load_state_dict(tensors, assign=True)
    return report
