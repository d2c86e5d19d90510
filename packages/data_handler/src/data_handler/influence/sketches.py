"""Count-sketches of gradients: long vectors as short ones whose inner products are right on average.

A number of the gradient of matrix k at row i and column j is added, with its sign, at one place:

    place = (row_place[k, i] + column_place[k, j]) mod size        sign = row_sign[k, i] * column_sign[k, j]

so a matrix [out, in] needs out + in hashes and no table of its size (the tensor sketch of Pham and Pagh 2013;
the count-sketch is of Charikar, Chen and Farach-Colton 2002). Hashes are SHAKE-256 of seed and name: the same
on every machine and in every version, so sketches of several runs and ranks can be compared. All matrices
share one vector.

E <sketch(a), sketch(b)> = <a, b>. For gradients A, B of one matrix the variance is at most

    (|A|^2 |B|^2 + <A, B>^2 + |A^T B|^2 + |A B^T|^2 + tr(A^T B A^T B) + tr(A B^T A B^T)) / size   (Frobenius)

(up to terms of order 1 / size^2), that is 6 |A|^2 |B|^2 / size for two equal outer products and near
|A|^2 |B|^2 / size for unrelated gradients of high rank; over several matrices the first term is of the whole
gradient and the others are summed. With 8,192 places a cosine of two unrelated gradients errs by about 0.011.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_handler.errors import DataRequestError

_HASH_BYTES = 8
MAX_SIZE = 2**30
"""Sums of two places fit into int32."""


class MatrixHashes(NamedTuple):
    """Where the numbers of one matrix go: places int32, signs float32 +-1; rows [out], columns [in]."""

    row_places: Tensor
    row_signs: Tensor
    column_places: Tensor
    column_signs: Tensor

    def places(self) -> Tensor:
        """int32 [out * in], below 2 size - 1: the fold comes at the end."""
        return (self.row_places[:, None] + self.column_places).view(-1)

    def signed(self, gradients: Tensor) -> Tensor:
        """[n, out, in] with the signs."""
        return gradients * self.row_signs[:, None] * self.column_signs


class CountSketch:
    """A linear map of gradients to vectors [size].

    Raises:
        DataRequestError: a size below 1, or a seed that is no whole number.
    """

    def __init__(self, size: int, seed: int) -> None:
        for name, value in (("size", size), ("seed", seed)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise DataRequestError(f"the sketch's {name} is {value!r}; give a whole number")
        if not 1 <= size <= MAX_SIZE:
            raise DataRequestError(f"the sketch's size is {size}; give 1 to {MAX_SIZE} (8192 is usual)")
        self.size, self.seed = size, seed

    def hashes(self, name: str, rows: int, columns: int, device: torch.device | str = "cpu") -> MatrixHashes:
        """Of the matrix `name` [rows, columns]."""
        row_places, row_signs = self._side(name, "rows", rows, device)
        column_places, column_signs = self._side(name, "columns", columns, device)
        return MatrixHashes(row_places, row_signs, column_places, column_signs)

    def _side(self, name: str, side: str, length: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Places and signs [length] of one side."""
        key = repr((self.seed, name, side)).encode()
        hashed = np.frombuffer(hashlib.shake_256(key).digest(_HASH_BYTES * length), "<u8")
        places = ((hashed >> np.uint64(1)) % np.uint64(self.size)).astype(np.int32)
        signs = 1 - 2 * (hashed & np.uint64(1)).astype(np.float32)
        return torch.from_numpy(places).to(device), torch.from_numpy(signs).to(device)

    def zeros(self, num_examples: int, device: torch.device | str = "cpu") -> Tensor:
        """Sums to add to: float32 [num_examples, 2 size - 1]."""
        return torch.zeros(num_examples, 2 * self.size - 1, device=device)

    def add(self, sums: Tensor, places: Tensor, signed: Tensor) -> None:
        """Adds signed gradients [n, ...] of one matrix to sums [n, 2 size - 1]."""
        for row, gradient in zip(sums, signed, strict=True):
            row.index_add_(0, places, gradient.reshape(-1))

    def folded(self, sums: Tensor) -> Tensor:
        """float32 [n, size] of sums [n, 2 size - 1]."""
        sketches = sums[:, : self.size].clone()
        sketches[:, : self.size - 1] += sums[:, self.size :]
        return sketches

    def of(self, gradients: dict[str, Tensor]) -> Tensor:
        """float32 [n, size] of gradients [n, out, in] by name of the matrix."""
        first = next(iter(gradients.values()))
        sums = self.zeros(len(first), first.device)
        for name, gradient in gradients.items():
            rows, columns = gradient.shape[1:]
            hashes = self.hashes(name, rows, columns, first.device)
            self.add(sums, hashes.places(), hashes.signed(gradient.float()))
        return self.folded(sums)
