"""Real master weights whose phases and scales are given ones: the inverse of phases.py.

Checkpoints hold master weights alone, and phases are read off them plane by plane. The sum of the planes
itself will not do: where the second plane points along the first one more often than against it, the mean
that the first one's scale is read off has moved. What is left over after the last plane therefore goes as
near to the latent weights as a box around the sum allows, and is then moved so that every mean is right. Of
the N weights of each kind on one axis of U or W,

    agree (second plane as the first)    move by x along the second plane
    against (opposite)                   by -x N_agree / N_against, which leaves the second plane's scale s
    across (second plane on the other axis)    by y along the first plane

where the first plane's scale stays what it is if

    N_agree (s + x) - N_against (s - x N_agree / N_against) + N_across y = 0,

and the smallest x and y are taken, within what leaves all phases as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairy2.phases import PhaseMatrix, quantize_parts
from fairy2.widely_linear import from_parts, to_parts

_ROOM = 0.1
"""How far a weight may be from the sum of its planes, over the smallest distance that a phase depends on."""
_MOST = 0.9
"""How far kinds of weights are moved, over the distance to where a phase changes."""
_LARGEST = 0.8
"""Of a later plane's scale over the smaller one of the plane before: below 1 first phases stay the first."""
_TOLERANCE = 2e-6
"""Of scales, over the largest one: means of float32 numbers."""


def storable_scales(scales: Tensor) -> Tensor:
    """[planes, 2, 2], those of later planes so small that a sum of planes lies on the axis of the first."""
    limited = [scales[0]]
    for later in scales[1:]:
        limited.append(torch.minimum(later, _LARGEST * limited[-1].amin(-1, keepdim=True)))
    return torch.stack(limited)


def phase_master_weights(chosen: PhaseMatrix, latent: Tensor) -> Tensor:
    """float32 [2n, 2m] near `latent` with the codes of `chosen`, its scales up to rounding of their means.

    Args:
        chosen: one plane or two.
    Raises:
        ValueError: there are none: the scales are not those of `storable_scales`, or the second plane points
            along the first one, or against it, nearly everywhere.
    """
    weight = from_parts(_moved(chosen, to_parts(latent.double()))).float()
    found = quantize_parts(to_parts(weight), len(chosen.codes))
    used = chosen.codes.any(-1).any(-1)
    error = (found.scales - chosen.scales).abs()[used].amax()
    matters = (chosen.scales != 0)[..., None, None]
    num_wrong = int(((found.codes != chosen.codes) & matters).sum())
    if num_wrong or error > _TOLERANCE * chosen.scales.amax():
        raise ValueError(
            f"no weights quantize to these phases and scales ({num_wrong} codes differ, scales by up to "
            f"{error.item():.3g}; scales {chosen.scales.flatten().tolist()}): train them as they are "
            "rounded, without calibration"
        )
    return weight


def _moved(chosen: PhaseMatrix, latent: Tensor) -> Tensor:
    """float64 parts: the sum of the planes, moved as above."""
    codes, scales = chosen.codes.double(), chosen.scales.double()
    total = (codes * scales[..., None, None]).sum(0)
    box = _ROOM * _smallest_gap(scales)[:, None, None, None]
    rest = torch.minimum(torch.maximum(latent - total, -box), box)
    for kind in range(2):
        for axis in range(2):
            planes, sizes = codes[:, kind, axis], scales[:, kind]
            if len(codes) == 1:
                rest[kind, axis] -= _mean_along(rest[kind, axis], planes[0], planes[0] != 0)
            else:
                rest[kind, axis] = _balanced(rest[kind, axis], planes, sizes, axis)
    return total + rest


def _smallest_gap(scales: Tensor) -> Tensor:
    """[2] of U and W: the least of the last plane's scales and of what it leaves of the plane before."""
    gap = scales[-1].amin(-1)
    if len(scales) > 1:
        gap = torch.minimum(gap, scales[0].amin(-1) - scales[1].amax(-1))
    return gap.clamp(min=0)


def _mean_along(rest: Tensor, signs: Tensor, inside: Tensor) -> Tensor:
    """What takes the mean of `rest` along the signs away from the weights inside."""
    count = inside.sum().clamp(min=1)
    return signs * inside * ((rest * signs * inside).sum() / count)


def _balanced(rest: Tensor, planes: Tensor, scales: Tensor, axis: int) -> Tensor:
    """`rest` [n, m] of one axis with right means; planes [2, n, m], scales [2 planes, 2 axes]."""
    first, second = planes
    product = first * second
    agree, against = product > 0, product < 0
    across, alone = (first != 0) & (second == 0), (first == 0) & (second != 0)
    for signs, inside in ((second, agree), (second, against), (second, alone), (first, across)):
        rest = rest - _mean_along(rest, signs, inside)
    own_first, own_second, other_second = scales[0, axis], scales[1, axis], scales[1, 1 - axis]
    num_agree, num_against, num_across = (inside.sum().item() for inside in (agree, against, across))
    more, shift = _smallest_moves(
        (num_agree, num_against, num_across),
        own_second.item(),
        _MOST * (own_first - own_second).item(),
        _MOST * torch.minimum(other_second, own_first - other_second).item(),
    )
    less = more * num_agree / num_against if num_against else 0.0
    return rest + second * agree * more - second * against * less + first * across * shift


def _smallest_moves(
    counts: tuple[float, float, float], scale: float, most_against: float, most_across: float
) -> tuple[float, float]:
    """x and y as above: the smallest ones by squares, or else the nearest to them within the limits."""
    num_agree, num_against, num_across = counts
    missing = (num_against - num_agree) * scale
    both = num_agree and num_against
    weight = 4 * num_agree * num_against / (num_agree + num_against) if both else 0.0
    multiple = missing / max(weight + num_across, 1)
    shift = min(max(multiple, -most_across), most_across) if num_across else 0.0
    if not both:
        return 0.0, shift
    more = (missing - num_across * shift) / (2 * num_agree)
    least = -most_against * num_against / num_agree
    if more < least and num_across:
        more = least
        shift = (missing - 2 * num_agree * more) / num_across
    return more, shift
