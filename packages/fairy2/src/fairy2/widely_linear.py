"""A real matrix as a widely linear map of complex vectors, without loss (Fairy2i; arXiv 2512.02901).

With x = x1 + i x2 of the two halves of an input, and outputs alike, any real matrix [2n, 2m] of blocks R is

    y = U x + W conj(x),    U = ((R11 + R22) + i (R21 - R12)) / 2,    W = ((R11 - R22) + i (R12 + R21)) / 2

and back R11 = Re W + Re U, R12 = Im W - Im U, R21 = Im W + Im U, R22 = Re U - Re W. Input j is paired with
j + m and output k with k + n, in every linear; as the map is the same function of the real vectors, whatever
comes before and after it (heads, rotary positions, gates) need not know of the pairing.

Complex numbers are two real ones here: a tensor `parts` [2 (U, W), 2 (real, imaginary), n, m], which has as
many elements as the matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_parts(matrix: Tensor) -> Tensor:
    """Real [2n, 2m], any float dtype -> parts [2, 2, n, m]. Raises: ValueError for odd sizes."""
    rows, columns = matrix.shape
    if rows % 2 or columns % 2:
        raise ValueError(f"a matrix of {rows} x {columns} does not divide into halves: both must be even")
    blocks = matrix.reshape(2, rows // 2, 2, columns // 2)
    r11, r12, r21, r22 = blocks[0, :, 0], blocks[0, :, 1], blocks[1, :, 0], blocks[1, :, 1]
    return torch.stack([r11 + r22, r21 - r12, r11 - r22, r12 + r21]).mul_(0.5).unflatten(0, (2, 2))


def from_parts(parts: Tensor) -> Tensor:
    """Inverse of `to_parts`: parts [2, 2, n, m] -> real [2n, 2m]."""
    (u_re, u_im), (w_re, w_im) = parts
    upper = torch.cat([w_re + u_re, w_im - u_im], 1)
    return torch.cat([upper, torch.cat([w_im + u_im, u_re - w_re], 1)])


def complex_rows(matrix: Tensor) -> Tensor:
    """Real [2n, 2m] -> complex64 [n, 2m], the columns of U, then those of W."""
    (u_re, u_im), (w_re, w_im) = to_parts(matrix.float())
    return torch.cat([torch.complex(u_re, u_im), torch.complex(w_re, w_im)], 1)


def complex_curvature(moments: Tensor) -> Tensor:
    """The second moments E[x x^T] [2m, 2m] of real inputs as those of z = (x, conj(x)): C = E[z z^H].

    C is Hermitian, and an error D of the complex rows has the trace of D C D^H that the error of the real
    rows has: what is known of least squares holds for it, with conjugates.
    """
    half = len(moments) // 2
    h11, h12, h21, h22 = (block for rows in moments.split(half) for block in rows.split(half, 1))
    proper, improper = torch.complex(h11 + h22, h21 - h12), torch.complex(h11 - h22, h12 + h21)
    return torch.cat([torch.cat([proper, improper], 1), torch.cat([improper.conj(), proper.conj()], 1)])
