"""Attention relations of MiniLMv2 (Wang et al. 2020, arXiv 2012.15828) as BitDistill uses them (arXiv
2510.13998, equations 8 to 12).

For A in (Q, K, V): all heads side by side [tokens, width], split anew into relation heads of d = width /
heads, and R = softmax(A A^T / sqrt(d)) [heads, tokens, tokens]: how each token relates to those that it may
see. The loss is KL(R_teacher, R_student), mean over heads and tokens. As relations are between tokens, the
widths of the two models may differ; heads are in number what both can be split into.

Row t has the tokens of its document up to t. All is in float32. One sequence at a time, its gradient beside
it: with S = A A^T / sqrt(d), dL/dS = (R_student - R_teacher) / (heads x tokens) and dL/dA = (dS + dS^T) A /
sqrt(d). Memory: about six tensors of heads x tokens x tokens floats, whatever the batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def _relation_heads(matrix: Tensor, num_heads: int) -> Tensor:
    """[tokens, width] -> [heads, tokens, d], float32."""
    return matrix.float().unflatten(-1, (num_heads, -1)).transpose(0, 1)


def _log_relations(heads: Tensor, hidden: Tensor) -> Tensor:
    """log softmax(A A^T / sqrt(d)), 0 where hidden [tokens, tokens]; [heads, tokens, tokens]."""
    scores = heads @ heads.mT / math.sqrt(heads.shape[-1])
    return scores.masked_fill_(hidden, -math.inf).log_softmax(-1).masked_fill_(hidden, 0.0)


class _RelationLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, visible: Tensor, counted: Tensor, num_heads: int
    ) -> Tensor:
        """Mean KL; student, teacher [batch, tokens, width], visible [batch, tokens, tokens], counted
        [batch, tokens]."""
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        num_rows = counted.sum().clamp_min(1) * num_heads
        gradient = torch.empty_like(student)
        for index, (own, other) in enumerate(zip(student, teacher, strict=True)):
            hidden, rows = ~visible[index], counted[index].float().unsqueeze(-1)
            heads = _relation_heads(own, num_heads)
            log_q = _log_relations(heads, hidden)
            log_p = _log_relations(_relation_heads(other, num_heads), hidden)
            p, q = (x.exp().masked_fill_(hidden, 0.0) for x in (log_p, log_q))
            total += (p * (log_p - log_q) * rows).sum()
            of_scores = (q - p) * (rows / num_rows)
            of_heads = (of_scores + of_scores.mT) @ heads / math.sqrt(heads.shape[-1])
            gradient[index] = of_heads.transpose(0, 1).flatten(1).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return (total / num_rows).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.saved_tensors[0] * grads[0], None, None, None, None


def relation_loss(
    student: Tensor, teacher: Tensor, visible: Tensor, counted: Tensor, num_heads: int
) -> Tensor:
    """KL(teacher's relations, student's) in nats, mean over relation heads and counted tokens.

    student, teacher: [batch, tokens, heads, head_dim] of one projection; visible: [batch, tokens, tokens],
    true where a row's token sees a column's, itself at least; counted: [batch, tokens].
    """
    with torch.autocast(student.device.type, enabled=False):
        loss: Tensor = _RelationLoss.apply(
            student.flatten(-2), teacher.flatten(-2), visible, counted, num_heads
        )
    return loss
