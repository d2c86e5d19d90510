"""Letters and scales of one matrix, given the second moments of its inputs; real or complex.

Minimizes E = tr((Q - V) C (Q - V)^H) over matrices Q whose entries are letters of an alphabet:
1. error compensation (GPTQ; Frantar et al. 2022, arXiv 2210.17323) with the scales of rounding: column by
   column, the error of the nearest letter is made up for by the columns still to come;
2. sweeps of scales by least squares, all at once, and each entry in turn to its best letter with all others
   held (CDQuant; Nair and Suggala 2024, arXiv 2406.17542); E never rises.
A complex entry stands in two columns and two rows of the real matrix. What its move costs there is
C_jj |move|^2, the same in every direction, so its best letter is the one nearest to the optimum, as with real
weights. Cost: O(rows columns^2) a sweep, four real products for a complex one.

Matrices are transposed here, [columns, rows]: one column is one row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairy2.alphabet import Alphabet
from wf_ptq.ternary.compensation import inverse_factor

_BLOCK = 64
"""Columns treated together."""


def solve(
    weight: Tensor, curvature: Tensor, alphabet: Alphabet, scales: Tensor, num_sweeps: int
) -> tuple[Tensor, Tensor]:
    """Letters int64 [rows, columns], and scales.

    Args:
        weight: V [rows, columns], float32 or complex64.
        curvature: C [columns, columns] of the same dtype, Hermitian and positive definite.
        scales: float32, to start from.
    """
    target = weight.t().contiguous()
    letters = compensated(target.clone(), inverse_factor(curvature), alphabet, scales)
    for _ in range(num_sweeps):
        scales = fitted_scales(letters, target, curvature, alphabet, scales)
        descend(letters, target, curvature, alphabet, scales)
    scales = fitted_scales(letters, target, curvature, alphabet, scales)
    return letters.t().contiguous(), scales


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Number of the level [letters] nearest to each value [rows]."""
    # |v - l|^2 = |v|^2 - 2 Re(conj(l) v) + |l|^2
    products = _real(levels) @ _real(values).t()
    return (products - levels.abs().square().div(2).unsqueeze(1)).argmax(0)


def _real(numbers: Tensor) -> Tensor:
    """[n] -> float32 [n, 1 or 2]."""
    return torch.view_as_real(numbers) if numbers.is_complex() else numbers.unsqueeze(1)


def _blocks(alphabet: Alphabet, num_columns: int) -> list[tuple[int, slice]]:
    """Kind and columns of each block; all columns of a block are of one kind."""
    return [
        (kind, slice(start, min(start + _BLOCK, columns.stop)))
        for kind, columns in enumerate(alphabet.kinds_of(num_columns))
        for start in range(columns.start, columns.stop, _BLOCK)
    ]


def compensated(rest: Tensor, factor: Tensor, alphabet: Alphabet, scales: Tensor) -> Tensor:
    """Letters [columns, rows]; overwrites `rest`, the weights."""
    letters = torch.empty(rest.shape, dtype=torch.int64)
    levels = alphabet.levels(scales)
    for kind, block in _blocks(alphabet, len(rest)):
        values, within = rest[block], factor[block, block]
        for index, root in enumerate(within.diagonal().real.tolist()):
            letter = nearest(values[index], levels[kind])
            letters[block.start + index] = letter
            values[index] = (values[index] - levels[kind][letter]) / root
            values[index + 1 :].addr_(within[index, index + 1 :], values[index], alpha=-1)
        rest[block.stop :].addmm_(factor[block, block.stop :].t(), values, alpha=-1)
    return letters


def _values(letters: Tensor, alphabet: Alphabet, scales: Tensor) -> Tensor:
    """[columns, rows] of the letters."""
    kinds = zip(alphabet.levels(scales), alphabet.kinds_of(len(letters)), strict=True)
    return torch.cat([levels[letters[columns]] for levels, columns in kinds])


def fitted_scales(
    letters: Tensor, target: Tensor, curvature: Tensor, alphabet: Alphabet, scales: Tensor
) -> Tensor:
    """Those with the smallest E for these letters; `scales` where one of them would not be above 0. A scale
    that no level is a multiple of (that of W where it is 0) stays what it is."""
    kinds = alphabet.kinds_of(len(letters))
    parts = {  # what each scale multiplies: kind, [columns of the kind, rows]
        scale: (kind, units[letters[columns]])
        for scale, of_scale in enumerate(alphabet.basis)
        for kind, (units, columns) in enumerate(zip(of_scale, kinds, strict=True))
        if units.abs().any()
    }
    if not parts:
        return scales
    output = curvature.t() @ target
    products = torch.empty(len(parts), len(parts), dtype=torch.float64)
    wanted = torch.empty(len(parts), dtype=torch.float64)
    for row, (kind, part) in enumerate(parts.values()):
        wanted[row] = _inner(output[kinds[kind]], part)
        moved = curvature[kinds[kind]].t() @ part
        for column, (other_kind, other) in enumerate(parts.values()):
            products[row, column] = _inner(moved[kinds[other_kind]], other)
    found = torch.linalg.lstsq(products, wanted.unsqueeze(1)).solution.squeeze(1).float()
    if not bool((found > 0).all()):
        return scales
    return scales.index_copy(0, torch.tensor(list(parts)), found)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right.conj()).real.sum(dtype=torch.float64)


def descend(letters: Tensor, target: Tensor, curvature: Tensor, alphabet: Alphabet, scales: Tensor) -> None:
    """Each entry in turn to its best letter, in place."""
    levels, values = alphabet.levels(scales), _values(letters, alphabet, scales)
    gradient = curvature.t() @ (values - target)
    for kind, block in _blocks(alphabet, len(letters)):
        here, own, before = gradient[block], curvature[block, block], values[block].clone()
        for index, curved in enumerate(own.diagonal().real.tolist()):
            now = values[block.start + index]
            letter = nearest(now - here[index] / curved, levels[kind])
            step = levels[kind][letter] - now
            here.addr_(own[index], step)
            letters[block.start + index] = letter
            now += step
        gradient[block.stop :].addmm_(curvature[block, block.stop :].t(), values[block] - before)
