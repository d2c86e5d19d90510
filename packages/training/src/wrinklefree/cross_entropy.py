"""Next-token cross-entropy from hidden states, with logits that exist one chunk at a time.

For each chunk of tokens: logits = hidden W^T, loss = logsumexp(logits) - logits[label], and while
the logits are there also their gradient (softmax - onehot), which yields the gradients of hidden
and W. The backward pass only scales them: three matrix products in all, as in the plain way, and no
logits recomputed. Memory: chunk x vocabulary floats twice, instead of tokens x vocabulary three
times (4 x 256 tokens of SmolLM2: 0.2 GB instead of 0.6 GB). The idea of computing the gradient in
the forward pass is that of Liger Kernel (Hsu et al. 2024, arXiv 2410.10989, section 3.2).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet_arch.kernels import kernel_for
from data_handler.packing import IGNORED_LABEL
from wrinklefree.objectives.base import TokenLosses


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        chunk: int,
        grad_enabled: bool,
        dtype: torch.dtype,
        shares: Tensor | None = None,
        never: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean loss in nats over the labels that count, and the loss of each, [n] without gradient, 0 where
        none counts; hidden [n, h], weight [v, h], labels [n].

        grad_enabled: the caller's torch.is_grad_enabled(), which is always off in here.
        dtype: of the products.
        shares: float32 [n], what each loss is multiplied by, in place of 1 over their number.
        never: the id of a token whose logit counts as -inf.
        """
        needs_grad = grad_enabled and (hidden.requires_grad or weight.requires_grad)
        count = 1 if shares is not None else int((labels != IGNORED_LABEL).sum().clamp_min(1))
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight: Tensor | None = None
        by_token = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        head = weight.to(dtype)
        for start in range(0, hidden.shape[0], chunk):
            rows, targets = hidden[start : start + chunk].to(dtype), labels[start : start + chunk]
            logits = rows @ head.T
            if never is not None:
                logits[:, never] = torch.finfo(dtype).min  # the kernel's exp takes no infinity
            losses, grad_logits = cross_entropy_rows(logits, targets, 1 / count if needs_grad else None)
            by_token[start : start + chunk] = losses
            if shares is not None:  # of a row's gradient with its input: narrower than that of its logits
                share = shares[start : start + chunk]
                losses = losses * share
            total += losses.sum()
            if grad_hidden is not None and grad_logits is not None:
                if never is not None:
                    grad_logits[:, never] = 0
                grad_rows = grad_logits @ head
                if shares is not None:
                    grad_rows, rows = grad_rows * share[:, None], rows * share[:, None].to(dtype)
                grad_hidden[start : start + chunk] = grad_rows
                grad_weight = _plus_product(grad_weight, grad_logits.T, rows, weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(by_token)
        return (total / count).float(), by_token

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grads[0] != 1 and grad_weight is not None:
            grad_hidden, grad_weight = grad_hidden * grads[0], grad_weight * grads[0]
        return grad_hidden, grad_weight, None, None, None, None, None, None


def _plus_product(total: Tensor | None, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """total + x y in `dtype`, in place; the head's gradient is the largest tensor of a step."""
    if total is None:
        return (x @ y).to(dtype)
    return total.addmm_(x, y) if x.dtype is dtype else total.add_(x @ y)


def cross_entropy_rows(logits: Tensor, targets: Tensor, factor: float | None) -> tuple[Tensor, Tensor | None]:
    """Losses [n] of [n, v] logits and, with a factor, that times the gradient of their sum, in their place.

    targets: [n], IGNORED_LABEL where none counts.
    """
    if (compute := kernel_for("cross_entropy_rows", logits.dtype, logits)) is not None:
        losses: Tensor = compute(logits, targets, IGNORED_LABEL, factor)
        return losses, None if factor is None else logits
    dtype, logits = logits.dtype, logits.float()
    counted = targets != IGNORED_LABEL
    index = targets.clamp_min(0).unsqueeze(1)
    log_norm = torch.logsumexp(logits, dim=1)
    losses = (log_norm - logits.gather(1, index).squeeze(1)) * counted
    if factor is None:
        return losses, None
    grad = logits.sub_(log_norm.unsqueeze(1)).exp_()
    grad.scatter_add_(1, index, grad.new_full(index.shape, -1.0))
    return losses, grad.mul_(counted.unsqueeze(1) * factor).to(dtype)


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int) -> Tensor:
    """Mean next-token loss in nats; the products are in the dtype of autocast, where that is on.

    hidden: [batch, tokens, h]; weight: [vocabulary, h]; labels: [batch, tokens] as Hugging Face
    has them: labels[t] is token t (position t - 1 predicts it), -100 where it does not count.
    """
    return cross_entropy_of_tokens(hidden, weight, labels, chunk_tokens)[0]


def cross_entropy_of_tokens(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int
) -> tuple[Tensor, TokenLosses]:
    """`chunked_cross_entropy`, and what it is the mean of.

    Where less than half of the rows have a label (answers alone), those that have one are computed: the head
    is a fifth of a step. Text keeps all of its rows, and with them the order of its sums; a batch without any
    label keeps a gradient for the head.
    """
    rows, targets = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    counted = targets != IGNORED_LABEL
    chosen = counted if 0 < 2 * int(counted.sum()) < len(targets) else slice(None)
    loss, losses = _apply(rows[chosen], weight, targets[chosen], chunk_tokens)
    values = losses.new_zeros(len(targets))
    values[chosen] = losses
    return loss, TokenLosses(*(F.pad(x.view(len(labels), -1), (1, 0)) for x in (values, counted)))


def cross_entropy_of_predictions(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    shares: Tensor,
    chunk_tokens: int,
    never: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Of predictions that were chosen one by one: sum of shares * losses, [] with gradient, and the losses in
    nats, [n] without.

    hidden: [n, h], with n above 0; targets: [n], the token that each predicts, or IGNORED_LABEL; shares:
    float32 [n]; never: the id of a token whose logit counts as -inf, and that is no target.
    """
    return _apply(hidden, weight, targets, chunk_tokens, shares, never)


def _apply(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_tokens: int,
    shares: Tensor | None = None,
    never: int | None = None,
) -> tuple[Tensor, Tensor]:
    device, grad_enabled = rows.device.type, torch.is_grad_enabled()
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
    with torch.autocast(device, enabled=False):
        loss, losses = _ChunkedCrossEntropy.apply(
            rows, weight, targets, chunk_tokens, grad_enabled, dtype, shares, never
        )
    return loss, losses
