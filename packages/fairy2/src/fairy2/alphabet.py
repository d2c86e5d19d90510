"""The values that a weight can have, as far as choosing them needs to know: levels linear in a few scales."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

_UNITS = torch.tensor([1, 1j, -1, -1j])
"""Of the phases 0 to 3."""


@dataclass(frozen=True)
class Alphabet:
    """Level l of a column of kind k is sum_s scales[s] basis[s, k, l]; kinds have equal runs of columns."""

    basis: Tensor
    """[scales, kinds, letters], real or complex."""

    def levels(self, scales: Tensor) -> Tensor:
        """[kinds, letters]."""
        return torch.tensordot(scales.to(self.basis.dtype), self.basis, 1)

    def kinds_of(self, num_columns: int) -> list[slice]:
        """The columns of each kind."""
        size = num_columns // self.basis.shape[1]
        return [slice(start, start + size) for start in range(0, num_columns, size)]

    @classmethod
    def of_phases(cls, scales: Tensor) -> Alphabet:
        """Sums of phases, with scales of a `PhaseMatrix` [planes, 2, 2] times a factor for U and for W."""
        letters = torch.tensor(_phase_letters(len(scales)))  # [letters, planes]
        basis = torch.zeros(2, 2, len(letters), dtype=torch.complex64)
        for kind in range(2):
            for of_plane, phases in zip(scales[:, kind], letters.t(), strict=True):
                basis[kind, kind] += of_plane[phases % 2] * _UNITS[phases]
        return cls(basis)


def _phase_letters(num_planes: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(4), repeat=num_planes))


def phase_codes(letters: Tensor, num_planes: int) -> Tensor:
    """Letters [n, 2m] of the columns of U and W -> codes of a `PhaseMatrix`, int8 [planes, 2, 2, n, m]."""
    units = _UNITS[torch.tensor(_phase_letters(num_planes))]
    tables = torch.stack([units.real, units.imag], 1).to(torch.int8)  # [letters, 2, planes]
    of_kind = letters.unflatten(1, (2, -1)).transpose(0, 1)  # [2, n, m]
    return tables[of_kind].permute(4, 0, 3, 1, 2).contiguous()
