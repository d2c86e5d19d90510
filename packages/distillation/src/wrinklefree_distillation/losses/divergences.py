"""Divergences between a teacher's distribution p and a student's q over the vocabulary.

| name | D | source |
| --- | --- | --- |
| forward | KL(p, q) | Hinton et al. 2015, arXiv 1503.02531 |
| reverse | KL(q, p) | |
| js | b KL(p, m) + (1 - b) KL(q, m), m = b p + (1 - b) q | GKD, arXiv 2306.13649 |
| skew_forward | KL(p, m), m = a p + (1 - a) q | DistiLLM, arXiv 2402.03898 |
| skew_reverse | KL(q, m), m = (1 - a) p + a q | DistiLLM |

Each takes the logits of both models, over the temperature, and gives D of every row in nats and its gradient
with respect to the student's, z with q = softmax(z): with u = q dD/dq, dD/dz = u - q sum(u). All is in log
space, so that nothing overflows where p or q is 0. Forward KL is calibration's (bitnet_arch/divergence.py),
by a kernel where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from bitnet_arch.divergence import forward_kl_rows
from wrinklefree_distillation.options import Divergence

Rows: TypeAlias = tuple[Tensor, Tensor]
"""D [n] and dD/dz [n, vocabulary]."""
DivergenceRows: TypeAlias = Callable[[Tensor, Tensor, float], Rows]
"""Of the teacher's logits, the student's (used up), both [n, vocabulary], and a factor of the gradient."""
_OfLogs: TypeAlias = Callable[[Tensor, Tensor], Rows]
"""Of log p and log q, both [n, vocabulary] and float32."""


def forward(teacher: Tensor, student: Tensor, factor: float) -> Rows:
    return forward_kl_rows(student, teacher, factor)


def _of_logits(rows: _OfLogs) -> DivergenceRows:
    def divergence(teacher: Tensor, student: Tensor, factor: float) -> Rows:
        values, gradient = rows(teacher.float().log_softmax(-1), student.float().log_softmax(-1))
        return values, gradient.mul_(factor)

    return divergence


def _centred(u: Tensor, q: Tensor) -> Tensor:
    return u - q * u.sum(-1, keepdim=True)


def _reverse(log_p: Tensor, log_q: Tensor) -> Rows:
    q = log_q.exp()
    terms = q * (log_q - log_p)
    return terms.sum(-1), _centred(terms, q)


def _mixture(log_p: Tensor, log_q: Tensor, share_of_p: float) -> Tensor:
    """Log of share p + (1 - share) q."""
    return torch.logaddexp(log_p + math.log(share_of_p), log_q + math.log1p(-share_of_p))


def _jensen_shannon(log_p: Tensor, log_q: Tensor, beta: float) -> Rows:
    log_m, q = _mixture(log_p, log_q, beta), log_q.exp()
    from_p = (log_p.exp() * (log_p - log_m)).sum(-1)
    terms = q * (log_q - log_m)
    return beta * from_p + (1 - beta) * terms.sum(-1), _centred((1 - beta) * terms, q)


def _skew_forward(log_p: Tensor, log_q: Tensor, alpha: float) -> Rows:
    log_m = _mixture(log_p, log_q, alpha)
    value = (log_p.exp() * (log_p - log_m)).sum(-1)
    return value, _centred(-(1 - alpha) * (log_p + log_q - log_m).exp(), log_q.exp())


def _skew_reverse(log_p: Tensor, log_q: Tensor, alpha: float) -> Rows:
    log_m, q = _mixture(log_p, log_q, 1 - alpha), log_q.exp()
    terms = q * (log_q - log_m)
    return terms.sum(-1), _centred(terms - alpha * (2 * log_q - log_m).exp(), q)


def divergence_rows(kind: Divergence, beta: float, alpha: float) -> DivergenceRows:
    if kind is Divergence.forward:
        return forward
    of_logs: dict[Divergence, _OfLogs] = {
        Divergence.reverse: _reverse,
        Divergence.js: partial(_jensen_shannon, beta=beta),
        Divergence.skew_forward: partial(_skew_forward, alpha=alpha),
        Divergence.skew_reverse: partial(_skew_reverse, alpha=alpha),
    }
    return _of_logits(of_logs[kind])
