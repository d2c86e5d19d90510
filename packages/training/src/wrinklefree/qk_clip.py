"""QK-clip: a bound on attention logits by scaling query and key weights (MuonClip; Kimi Team 2025, arXiv
2507.20534, section 2.1).

1. S_h is the largest logit of head h in a step, over all tokens, passes and ranks.
2. gamma_h = min(1, tau / S_h) is what its logits are to be multiplied by.
3. After the optimizer's step, rows of the query and key projections are scaled, biases too, so that they are.

Logits are bilinear in the two, and rotary positions leave lengths alone, so any a_h k_g = gamma_h does it,
where k_g scales a key head and a_h the query heads that share it. The paper's rule for heads with keys of
their own is a = k = sqrt(gamma). Where a key head serves several (GQA), what it shrinks by all of them shrink
by, so

    k_g = sqrt(max of gamma_h over its query heads),    a_h = gamma_h / k_g

that is: both take the half of what all heads of the group need, the query takes the rest. No factor is above
1, a group with a head below the threshold keeps its keys, and such a head keeps its weights to the bit. With
one query head a key head this is the paper's rule. Its rule for latent attention (MLA), which leaves shared
rotary keys alone, is the special case that one head of the group needs nothing.

Ternary weights. Codes and scales of groups along the inputs belong to one row: with a row its scales shrink
and its codes stay (up to rounding at a boundary between codes), so the product shrinks by just the factor.
One scale for a whole matrix cannot hold this: scaling some rows moves the mean that all rows are rounded by.
So `tensor` is refused. Models whose queries and keys are normed (Qwen 3, Gemma 3) are refused too
(model_checks.py): the norm undoes a scaling of the weights, its gain is one for all heads, and it bounds the
logits by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from bitnet_arch.attention_logits import LogitWatch
from wf_formats.errors import NotFiniteError, RequestError
from wf_formats.schemes import LOW_RANK_FACTORS


def check_watchable(model: Any) -> None:
    """Raises: RequestError for a model whose logits cannot be watched. Its norms: model_checks.py."""
    try:
        LogitWatch(model)
    except ValueError as error:
        raise RequestError(f"training.qk_clip.threshold: {error}") from error


def check_finite(largest: Tensor) -> None:
    """Raises: NotFiniteError naming the first head whose largest logit no scaling can bound.

    Args: largest are the logits [layers, heads] of all ranks; infinite where a rank has seen NaN.
    """
    if bool(largest.isfinite().all()):
        return
    layer, head = (~largest.isfinite()).nonzero()[0].tolist()
    raise NotFiniteError(
        f"an attention logit of layer {layer}, head {head} is not finite, which training.qk_clip.threshold "
        "cannot bound"
    )


def head_factors(largest: Tensor, num_key_heads: int, threshold: float) -> tuple[Tensor, Tensor]:
    """What query heads [heads] and key heads [key heads] are to be multiplied by.

    Args: largest are the logits S [heads], finite (`check_finite`: one that is infinite would make weights
        of NaN, or of 0); the heads of a key head are neighbours.
    """
    assert largest.isfinite().all()
    gammas = torch.where(largest > threshold, threshold / largest, 1.0).view(num_key_heads, -1)
    keys = gammas.amax(1).sqrt()
    return (gammas / keys.unsqueeze(1)).flatten(), keys


@torch.no_grad()
def scale_heads(attention: Any, queries: Tensor, keys: Tensor) -> None:
    """Multiplies the rows of an attention module's query and key heads, whole or sharded."""
    of_queries, of_keys = (factors.repeat_interleave(attention.head_dim) for factors in (queries, keys))
    if hasattr(attention, "qkv_proj"):  # Phi-3
        _scale_rows(attention.qkv_proj, torch.cat([of_queries, of_keys, torch.ones_like(of_keys)]))
        return
    _scale_rows(attention.q_proj, of_queries)
    _scale_rows(attention.k_proj, of_keys)


def _scale_rows(linear: nn.Module, factors: Tensor) -> None:
    if bool((factors == 1).all()):
        return
    for parameter in _with_rows(linear):
        column = factors.view(-1, *[1] * (parameter.dim() - 1)).to(parameter.dtype)
        if isinstance(parameter, DTensor):
            column = distribute_tensor(column, parameter.device_mesh, parameter.placements)
        parameter.mul_(column)


def _with_rows(linear: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters whose first dimension is the linear's output: weight, bias, U of a low-rank correction."""
    for name in ("weight", "bias", LOW_RANK_FACTORS[0]):
        if (parameter := getattr(linear, name, None)) is not None:
            yield parameter
