"""Which tokens of which blocks are masked: the noise of masked diffusion (MDLM, arXiv 2406.07524; LLaDA,
arXiv 2502.09992), block by block (BD3-LM, arXiv 2503.09573).

Each block has a time t in (0, 1), and each of its tokens that may be masked is, with probability p = eps + (1
- eps) t. The times of a batch are spread evenly over (0, 1), so that its loss varies less than with
independent ones. With complementary masks a second choice masks what the first one left (Fast-dLLM v2, arXiv
2509.26328), with 1 - p, and p is between eps and 1 - eps.
"""

from __future__ import annotations

import zlib
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor


class Noise(NamedTuple):
    """Of the tokens that may be masked, in the order in which they were given.

    masked: bool [choices, tokens]; probabilities: float32 [choices, tokens], with which they are.
    """

    masked: Tensor
    probabilities: Tensor


def draw_noise(blocks: Tensor, eps: float, is_complementary: bool, generator: torch.Generator) -> Noise:
    """Args: blocks [tokens], a number for each block of the batch."""
    numbers, block_of = blocks.unique(return_inverse=True)
    num_blocks = max(1, len(numbers))
    first = torch.rand(1, generator=generator)
    times = (torch.randperm(len(numbers), generator=generator) + first) / num_blocks
    most = 1 - eps if is_complementary else 1.0
    probabilities = (eps + (most - eps) * times)[block_of]
    masked = torch.rand(len(blocks), generator=generator) < probabilities
    if not is_complementary:
        return Noise(masked[None], probabilities[None])
    return Noise(torch.stack([masked, ~masked]), torch.stack([probabilities, 1 - probabilities]))


def noise_generator(seed: int, step: int, input_ids: Tensor) -> torch.Generator:
    """Random numbers of one batch: of the run's seed, the step and the batch's own tokens (on the CPU).

    So the same batch of the same step has the same noise wherever it is computed: by a resumed run, by
    another number of processes, by all processes that have parts of one model. Nobody else's numbers change.
    """
    contents = zlib.crc32(input_ids.contiguous().numpy().tobytes())
    return torch.Generator().manual_seed(Random(f"{seed} {step} {contents}").getrandbits(63))
