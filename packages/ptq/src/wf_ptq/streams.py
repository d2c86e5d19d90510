"""Hidden states between the blocks, and how a block is run on them.

A stream is [sequences, tokens, hidden]. Positions count from 0 in every sequence and attention is
causal. Two streams walk through the model: the full-precision model's and the ternary one's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch import use_kernels
from bitnet_arch.attention import NAME as KERNEL_ATTENTION

STREAM_BATCH = 8
"""Sequences per pass where no gradient is wanted."""
_MIN_ENERGY = 1e-6
"""Floor of a token's |target|^2 over the mean: a token whose hidden state is 0 must not weigh all."""


class BlockRunner:
    """Runs single blocks of one model, in the dtype of the stream: bfloat16 ones under autocast.

    Gains and biases of the model become float32, in which norms compute.

    Raises:
        ValueError: the model's attention is not `sdpa`, whose causal form needs no mask.
    """

    def __init__(self, model: Any) -> None:
        use_kernels(model)
        found = model.config._attn_implementation
        if found not in ("sdpa", KERNEL_ATTENTION):
            raise ValueError(f"attention {found!r}: load the model with attn_implementation='sdpa'")
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data = parameter.data.float()
        self._rotary = model.model.rotary_emb

    def __call__(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """[sequences, tokens, hidden] -> the same; computed in the input's dtype."""
        positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        cosine, sine = self._rotary(hidden, positions)
        rotary = (cosine.to(hidden.dtype), sine.to(hidden.dtype))
        with computing_in(hidden.dtype, hidden.device):
            output: Tensor = block(hidden, position_ids=positions, position_embeddings=rotary)
        return output

    @torch.no_grad()
    def stream(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The whole stream, a few sequences at a time."""
        output = torch.empty_like(hidden)
        for start in range(0, len(hidden), STREAM_BATCH):
            rows = slice(start, start + STREAM_BATCH)
            output[rows] = self(block, hidden[rows])
        return output


def check_streams(inputs: Tensor, targets: Tensor) -> None:
    """Raises ValueError for streams before and after a block that differ in shape, or targets that are not
    finite."""
    if inputs.shape != targets.shape:
        raise ValueError(f"streams of shapes {tuple(inputs.shape)} and {tuple(targets.shape)}")
    if not targets.isfinite().all():
        raise ValueError("the full-precision stream is not finite")


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """|output - target|^2 / |target|^2 of each token (not below a floor), float32 [sequences, tokens]."""
    target = target.float()
    energy = target.square().sum(-1)
    return (output.float() - target).square().sum(-1) / energy.clamp(min=_MIN_ENERGY * energy.mean())


@torch.no_grad()
def stream_error(run: BlockRunner, block: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Mean relative error of the last sequences behind a block."""
    rows = slice(-STREAM_BATCH, None)
    return relative_error(run(block, inputs[rows]), targets[rows]).mean().item()


def computing_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Products in `dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16)
