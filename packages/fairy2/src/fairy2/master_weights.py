"""Real master weights whose phases and scales are given ones: the inverse of phases.py.

Checkpoints hold master weights alone, and phases are read off them plane by plane. The sum of the planes itself
will not do: where later planes point along an earlier one more often than against it, the mean that the earlier
one's scale is read off has moved. The sum is therefore moved by an `e`: what lies nearest to the latent weights
within a box that no phase leaves, plus the smallest change that makes every mean right. With signs c_t of
plane t (0 off the axis in question), those means are T linear conditions per axis,

    sum c_t (V_(t+1) + ... + V_T + e) = 0,

whose smallest solution adds a multiple of every plane's signs, by a T x T system.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairy2.phases import PhaseMatrix, quantize_parts
from fairy2.widely_linear import from_parts, to_parts

_ROOM = 0.4
"""How far a weight may be from the sum of its planes, over the smallest distance that a phase depends on."""
_LARGEST = 0.9
"""Of a later plane's scale over the smaller one of the plane before: below 1 the first phase stays the first."""
_TOLERANCE = 2e-6
"""Of scales, over the largest one: means of float32 numbers."""


def storable_scales(scales: Tensor) -> Tensor:
    """[planes, 2, 2], those of later planes so small that a sum of planes lies on the axis of the first."""
    limited = [scales[0]]
    for later in scales[1:]:
        limited.append(torch.minimum(later, _LARGEST * limited[-1].amin(-1, keepdim=True)))
    return torch.stack(limited)


def phase_master_weights(chosen: PhaseMatrix, latent: Tensor) -> Tensor:
    """float32 [2n, 2m] near `latent` with the codes of `chosen`, and its scales up to rounding of their means.

    Raises:
        ValueError: there are none, as the scales are not those of `storable_scales` or the codes of one axis
            point along an earlier plane too often.
    """
    parts = to_parts(latent.double())
    for room in (_ROOM, 0.0):
        weight = from_parts(_moved(chosen, parts, room)).float()
        found = quantize_parts(to_parts(weight), len(chosen.codes))
        if _same(found, chosen):
            return weight
    raise ValueError(
        f"no weights quantize to these phases and scales ({(found.codes != chosen.codes).sum().item()} codes "
        f"differ, scales by up to {(found.scales - chosen.scales).abs().max().item():.3g})"
    )


def _moved(chosen: PhaseMatrix, latent: Tensor, room: float) -> Tensor:
    """float64 parts: the sum of the planes, moved as above."""
    codes, scales = chosen.codes.double(), chosen.scales.double()
    planes = codes * scales[..., None, None]
    total = planes.sum(0)
    box = room * _smallest_gap(scales)[:, None, None, None]
    moved = total + torch.minimum(torch.maximum(latent - total, -box), box)
    rests = [moved - planes[: plane + 1].sum(0) for plane in range(len(codes))]
    wrong = torch.stack([(code * rest).sum((-1, -2)) for code, rest in zip(codes, rests, strict=True)], -1)
    products = torch.einsum("pvanm,qvanm->vapq", codes, codes)
    multiples = -(torch.linalg.pinv(products, hermitian=True) @ wrong.unsqueeze(-1)).squeeze(-1)
    return moved + torch.einsum("vap,pvanm->vanm", multiples, codes)


def _smallest_gap(scales: Tensor) -> Tensor:
    """[2] of U and W: the least of the last plane's scales and of what it leaves of the planes before."""
    gaps = scales[-1].amin(-1)
    for plane in range(len(scales) - 1):
        gaps = torch.minimum(gaps, scales[plane].amin(-1) - scales[plane + 1 :].amax(-1).sum(0))
    return gaps.clamp(min=0)


def _same(found: PhaseMatrix, chosen: PhaseMatrix) -> bool:
    used = chosen.codes.any(-1).any(-1)
    error = (found.scales - chosen.scales).abs()[used].amax()
    close = bool(error <= _TOLERANCE * chosen.scales.amax())
    return torch.equal(found.codes, chosen.codes) and close
