"""How fast this processor multiplies in each precision of the backward pass (gradients.PRECISIONS)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from bitnet_arch.gradients import INTEGER_PRECISIONS
from bitnet_arch.products import scaled_sums

_ROWS, _INNER, _COLS = 256, 512, 1024
_REPETITIONS, _ENOUGH_S = 8, 0.05


def fastest_precision(has_integer_products: bool = True) -> str:
    """Args: has_integer_products: of the quantizer (`Quantizer.has_integer_products`)."""
    times_s = product_times_s()
    allowed = [name for name in times_s if has_integer_products or name not in INTEGER_PRECISIONS]
    return min(allowed, key=lambda name: times_s[name])


def product_times_s() -> dict[str, float]:
    """Seconds of one product of 0.13 billion multiplications, by precision; under a second for all.

    int8 is that of the blocks' products; head and attention are in bfloat16 with it, a quarter of a small
    model's products.
    """
    left, right = torch.ones(_ROWS, _INNER), torch.ones(_INNER, _COLS)
    halves = left.bfloat16(), right.bfloat16()
    codes, factors = (left.to(torch.int8), right.to(torch.int8)), torch.ones(_ROWS, 1)
    float32_s, bf16_s = _time_s(lambda: left @ right), _time_s(lambda: halves[0] @ halves[1])
    int8_s = _time_s(lambda: scaled_sums(*codes, factors, None, torch.float32))
    return {"float32": float32_s, "bf16": bf16_s, "int8": 0.75 * int8_s + 0.25 * bf16_s}


def _time_s(product: Callable[[], Tensor]) -> float:
    """The shortest of several after a first one, or the first where it takes long."""
    times_s = [_once_s(product)]
    while len(times_s) <= _REPETITIONS and sum(times_s) < _ENOUGH_S:
        times_s.append(_once_s(product))
    return min(times_s)


def _once_s(product: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    product()
    return time.perf_counter() - start
