"""Losses over a vocabulary, whose gradients take the place of the logits: a program for each row.

Sums of exponentials are float32 within a block of a row and float64 across blocks. Rows with a logit that is
no number or infinite have the loss NaN and keep their logits.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from ternary_kernels.gpu.launch import (
    FUSED,
    INFINITY_BITS,
    block_of,
    fits,
    fits_matrix,
    launch,
    magnitude_bits,
    rounded_to,
)
from ternary_kernels.training.rows import check_labels


@triton.jit
def _load(row, place, count):
    return tl.load(row + place, mask=place < count, other=-float("inf")).to(tl.float32)


@triton.jit
def _peak(row, cols, BLOCK: tl.constexpr):
    """The largest of a row, and how many to look at further: all, or (0, 0) where one is not finite."""
    tops = tl.full([BLOCK], -float("inf"), tl.float32)
    bits = tl.zeros([BLOCK], tl.int32)
    for first in range(0, cols, BLOCK):
        place = first + tl.arange(0, BLOCK)
        values = _load(row, place, cols)
        tops = tl.maximum(tops, values)
        bits = tl.maximum(bits, tl.where(place < cols, magnitude_bits(values), 0))
    finite = tl.max(bits, 0) < INFINITY_BITS
    return tl.where(finite, tl.max(tops, 0), 0.0), tl.where(finite, cols, 0)


@triton.jit
def _sum_exp(row, usable, peak, BLOCK: tl.constexpr):
    """float64; 1 where the row is not finite."""
    total = tl.zeros([], tl.float64)
    for first in range(0, usable, BLOCK):
        place = first + tl.arange(0, BLOCK)
        total += tl.sum(tl.exp(_load(row, place, usable) - peak), 0).to(tl.float64)
    return tl.where(usable > 0, total, 1.0)


@triton.jit
def _cross_entropy(
    logits, labels, losses, cols, ignored, factor, WITH_GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    number = tl.program_id(0)
    row = logits + number.to(tl.int64) * cols
    label = tl.load(labels + number)
    counts = label != ignored
    of_label = tl.load(row + tl.where(counts, label, 0)).to(tl.float32)  # before gradients take its place
    peak, usable = _peak(row, cols, BLOCK)
    total = _sum_exp(row, usable, peak, BLOCK)
    loss = tl.where(usable > 0, tl.log(total) + (peak - of_label).to(tl.float64), float("nan"))
    tl.store(losses + number, tl.where(counts, loss, 0.0))
    if WITH_GRADIENT:
        share = (factor / total).to(tl.float32)
        written = tl.where(counts, usable, cols)
        for first in range(0, cols, BLOCK):
            place = first + tl.arange(0, BLOCK)
            values = tl.exp(_load(row, place, usable) - peak) * share
            values = tl.where(counts, values - tl.where(place == label, factor, 0.0), 0.0)
            tl.store(row + place, rounded_to(logits.dtype.element_ty, values), mask=place < written)


def cross_entropy_rows(logits: Tensor, labels: Tensor, ignored: int, grad_factor: float | None) -> Tensor:
    """Losses in nats, float64 [rows], 0 where the label is `ignored`; NaN where a logit is no number.

    Args:
        logits: float32 or bfloat16 [rows, vocabulary]; with a factor they become their gradients,
            (softmax - onehot) * grad_factor.
        labels: int64 [rows].

    Raises:
        ValueError: a label outside the vocabulary.
    """
    fits_matrix("logits", logits)
    rows, cols = logits.shape
    fits("labels", labels, (rows,), torch.int64)
    check_labels(labels, cols, ignored)
    losses = logits.new_empty(rows, dtype=torch.float64)
    launch(
        _cross_entropy,
        (rows,),
        logits,
        labels,
        losses,
        cols,
        ignored,
        grad_factor or 0.0,
        WITH_GRADIENT=grad_factor is not None,
        BLOCK=block_of(cols),
        **FUSED,
    )
    return losses


@triton.jit
def _divergence(logits, expected, losses, cols, factor, WITH_GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    number = tl.program_id(0)
    row, wanted = logits + number.to(tl.int64) * cols, expected + number.to(tl.int64) * cols
    peak, usable = _peak(row, cols, BLOCK)
    wanted_peak, wanted_usable = _peak(wanted, cols, BLOCK)
    usable = tl.minimum(usable, wanted_usable)
    total = _sum_exp(row, usable, peak, BLOCK)
    wanted_total = _sum_exp(wanted, usable, wanted_peak, BLOCK)
    share, wanted_share = (1.0 / total).to(tl.float32), (1.0 / wanted_total).to(tl.float32)
    mean = tl.zeros([], tl.float64)
    for first in range(0, usable, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < usable
        left = tl.load(wanted + place, mask=inside, other=0.0).to(tl.float32) - wanted_peak
        right = tl.load(row + place, mask=inside, other=0.0).to(tl.float32) - peak
        p = tl.exp(left) * wanted_share
        mean += tl.sum(tl.where(inside, p * (left - right), 0.0), 0).to(tl.float64)
        if WITH_GRADIENT:
            found = (tl.exp(right) * share - p) * factor
            tl.store(row + place, rounded_to(logits.dtype.element_ty, found), mask=inside)
    loss = mean + tl.log(total / wanted_total)
    tl.store(losses + number, tl.where(usable > 0, loss, float("nan")))


def divergence_rows(logits: Tensor, expected: Tensor, grad_factor: float | None) -> Tensor:
    """KL(softmax(expected) || softmax(logits)) in nats, float64 [rows]; NaN where a logit is no number.

    Args:
        logits: float32 or bfloat16 [rows, vocabulary]; with a factor they become their gradients,
            (softmax(logits) - softmax(expected)) * grad_factor.
        expected: like logits.
    """
    fits_matrix("logits", logits)
    rows, cols = logits.shape
    fits("expected", expected, (rows, cols), logits.dtype)
    losses = logits.new_empty(rows, dtype=torch.float64)
    launch(
        _divergence,
        (rows,),
        logits,
        expected,
        losses,
        cols,
        grad_factor or 0.0,
        WITH_GRADIENT=grad_factor is not None,
        BLOCK=block_of(cols),
        **FUSED,
    )
    return losses
