"""AdamW over all tensors of an optimizer at once, with moments of 32, 16 or 8 bits (csrc/training/adamw.inl).

    first = first + (1 - beta1) (grad - first),  second = beta2 second + (1 - beta2) grad^2
    weight = (1 - lr decay) weight - lr first / (1 - beta1^t) / (sqrt(second / (1 - beta2^t)) + eps)

(Loshchilov and Hutter 2019, arXiv 1711.05101). Arithmetic is float32 on moments as they are before they are
rounded; weights and moments come out equal to the bit on every instruction set and number of threads.

float32    8 bytes of moments a weight
bfloat16   4 bytes
uint8      2 bytes and 2 exponents a block of 256 weights (after the block-wise state of Dettmers et al. 2021,
           arXiv 2110.02861, and the shared exponents of the OCP Microscaling formats, 2023)

A code of the 8 bits is a short float32 below its block's largest exponent: 3 bits of mantissa, and a sign
and 16 octaves for the first moment, 32 octaves for the second, whose square root then has 16 as well. Why not
the tree map of that paper: coding and decoding are shifts instead of a search in a table, steps are 6 to 12 %
of a value however small it is beside its block's largest, and no second moment above zero becomes zero,
beside which a first moment would make a step of up to 1 / eps. Tried on the gradients of 40 updates of
SmolLM2-135M, five tensors: sums of updates err by 6 % (bfloat16: 0.4 %) and no update exceeds 1.5 learning
rates (exact ones: 1.3). With the tree map they err by 3 to 6 % in later layers, but by 30 to 150 % in the
first one and the embeddings, where single updates reach 1,500 learning rates. 4 bits of mantissa over 16
octaves of the second moment err by 16 % there.

Moments of 16 and 8 bits are rounded up or down by chance, so that their means are right. To nearest, one that
moves by less than half a step in an update stays for ever: with beta2 = 0.999 a second moment moves by 0.1 %
at most while gradients shrink, and bfloat16's half step is 0.2 to 0.4 %. The chance is a hash of tensor,
update and element: a run that goes on from saved moments repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ternary_kernels import _native
from ternary_kernels.training.rows import address_of
from wf_formats.errors import NotFiniteError
from wf_formats.kernel_sizes import MOMENT_BLOCK

MOMENTS = (torch.float32, torch.bfloat16, torch.uint8)
_LARGEST_GRADIENT = 1e19


def moment_size(num_weights: int, dtype: torch.dtype) -> int:
    """Numbers in a moment of a tensor: uint8 has the codes, then the exponents of the blocks."""
    return num_weights + -(-num_weights // MOMENT_BLOCK) if dtype is torch.uint8 else num_weights


def new_moment(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A moment of `weight` that is zero: [moment_size] of one of `MOMENTS`."""
    return weight.new_zeros(moment_size(weight.numel(), dtype), dtype=dtype)


class GradientError(NotFiniteError):
    """A gradient is no number, or so large that its square is none."""

    def __init__(self, index: int, count: int) -> None:
        super().__init__(
            f"gradient {index} of {count} is not finite (NaN or infinity) or beyond {_LARGEST_GRADIENT:g}"
        )
        self.index = index


@torch.library.custom_op("ternary_kernels::adamw", mutates_args=("weights", "first", "second"))
def adamw(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    numbers: Sequence[int],
    steps: Sequence[int],
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One update of every weight in place, and of its moments.

    Args:
        weights, grads: float32 of equal shapes, contiguous.
        first, second: of one dtype for a weight, as `new_moment` makes them.
        numbers: of the tensors in their optimizer; those of other numbers are rounded by other noise.
        steps: updates of each tensor, this one included; from 1.

    Raises:
        GradientError: naming the gradient by its index; nothing is changed then.
        ValueError: a dtype, shape or device that does not fit.
    """
    tensors = list(zip(weights, grads, first, second, strict=True))
    if any(step < 1 for step in steps):
        raise ValueError(f"steps begin at 1, not {min(steps)}")
    bad = _native.adamw(
        torch.get_num_threads(),
        [address_of("weight", w, tuple(w.shape), torch.float32) for w in weights],
        [address_of("grad", grad, tuple(w.shape), torch.float32) for w, grad, _, _ in tensors],
        [address_of("first", m, _shape(w, m), *MOMENTS) for w, _, m, _ in tensors],
        [address_of("second", v, _shape(w, m), m.dtype) for w, _, m, v in tensors],
        [w.numel() for w in weights],
        [8 * m.element_size() for m in first],
        _one_each(numbers, weights),
        _one_each(steps, weights),
        _one_each(learning_rates, weights),
        _one_each(weight_decays, weights),
        beta1,
        beta2,
        eps,
    )
    if bad >= 0:
        raise GradientError(bad, len(grads))


@adamw.register_fake
def _(*args: object) -> None:
    pass


def _shape(weight: Tensor, moment: Tensor) -> tuple[int, ...]:
    return (moment_size(weight.numel(), moment.dtype),)


def _one_each(values: Sequence[Any], weights: Sequence[Tensor]) -> list[Any]:
    if len(values) != len(weights):
        raise ValueError(f"{len(values)} values for {len(weights)} weights: {list(values)[:4]}")
    return list(values)
