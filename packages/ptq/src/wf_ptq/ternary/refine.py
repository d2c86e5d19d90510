"""A block's latent weights, scales, gains and biases, tuned by gradients on the block's output.

Minimizes, over random batches of calibration sequences, the squared distance of the ternary block's
output to the full-precision stream, relative to each token's norm. Input is the ternary stream, so a
block also learns to make up for the ones before it. Codes follow the latent weights by rounding, with
straight-through gradients (block-wise training of EfficientQAT; Chen et al. 2024, arXiv 2407.11062).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wf_ptq.layers import ScaledLinear, vectors
from wf_ptq.optimizer import check_finite, keep_positive, rates_are_to_blame, relative_adam, set_rates
from wf_ptq.options import RefineOptions
from wf_ptq.streams import BlockRunner, relative_error


def refine_block(
    run: BlockRunner,
    block: nn.Module,
    linears: Sequence[ScaledLinear],
    inputs: Tensor,
    targets: Tensor,
    options: RefineOptions,
    seed: int,
) -> None:
    """Tunes the block in place; the linears, which are part of it, are settled afterwards.

    Args:
        inputs: ternary stream before the block [sequences, tokens, hidden].
        targets: full-precision stream after it, the same shape.
        seed: of the order of the sequences.
    Raises:
        NotFiniteError: activations or the error.
    """
    gains = vectors(block)
    for gain in gains:
        gain.requires_grad_(True)
    optimizer = relative_adam(linears, gains, options.rates)
    order = _batches(len(inputs), options.batch_size, options.num_steps, seed)
    for step, rows in enumerate(order):
        set_rates(optimizer, step, options.num_steps)
        with rates_are_to_blame():
            loss = relative_error(run(block, inputs[rows]), targets[rows]).mean()
        check_finite(loss, "the block's output error")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keep_positive(linears)
    for gain in gains:
        gain.requires_grad_(False)
        gain.grad = None
    for linear in linears:
        linear.settle()


def _batches(num_sequences: int, batch_size: int, num_steps: int, seed: int) -> list[Tensor]:
    """Row numbers of each step: shuffled passes over the sequences."""
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, num_sequences)
    rows: list[Tensor] = []
    while len(rows) < num_steps:
        shuffled = torch.randperm(num_sequences, generator=generator)
        rows += list(shuffled[: num_sequences // size * size].split(size))
    return rows[:num_steps]
