"""The Target Concrete Score of an autoregressive teacher (TCSM, arXiv 2504.16431): how likely each token is
at a place of a text, given what stands left and right of it.

    p(v | x_<i, x_i+1..i+m)  ~  p(v | x_<i) prod_{j=i+1..i+m} p(x_j | x_<i, v, x_i+1..j-1)

for candidates v: the likeliest by the left context, the text's own token among them always. What is left of
the vocabulary is one outcome; its weight p(rest | x_<i) E[prod] is estimated by some tokens drawn from the
rest by p(v | x_<i), so nothing is renormalised away (with few draws the estimate is noisy, in one target;
with a candidate for each token of the vocabulary it is exact).

Cost: for a place with m tokens to the right, (candidates + draws) m tokens of the teacher, beside the clean
text once for each pass. All of a row are branches of one tree: a token of a branch sees the text before its
place and its own branch, so a pass needs no text twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wf_formats.diffusion import exclude_token
from wrinklefree.capture import Capture, ForwardResult, View
from wrinklefree.predictions import DensePredictions, SparsePredictions
from wrinklefree_distillation.tokens import documents

Teach = Callable[[View, Capture], ForwardResult]


@dataclass(frozen=True)
class Places:
    """Tokens of a batch whose distribution is asked for. All are int64 [n].

    rows, columns: where they stand; none is the first of its document.
    widths: m, how many tokens to the right count, at least 1, all of the same document.
    """

    rows: Tensor
    columns: Tensor
    widths: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Tensor) -> Places:
        return Places(self.rows[chosen], self.columns[chosen], self.widths[chosen])


@dataclass(frozen=True)
class Candidates:
    """ids: [n, candidates + draws], the draws last; log_left: of each by the left context, and for a draw the
    log of its part of what the candidates leave, so that weights times products add up over all columns."""

    ids: Tensor
    log_left: Tensor
    num_draws: int


@dataclass(frozen=True)
class Branches:
    """Of one row of a batch. view: the text up to the last place and all branches, [1, tokens]; first: number
    of the first branch token in it; owner: the branch of each branch token; targets: what it is asked for."""

    view: View
    first: int
    owner: Tensor
    targets: Tensor


def candidates(
    log_left: Tensor, own: Tensor, num_candidates: int, num_draws: int, generator: torch.Generator
) -> Candidates:
    """Args: log_left is log p(v | x_<i), [n, vocabulary], -inf for what no text has; own is the text's tokens
    [n]."""
    num_candidates = min(num_candidates, log_left.shape[1])
    raised = log_left.scatter(1, own.unsqueeze(1), torch.inf)
    chosen = raised.topk(num_candidates).indices
    rest = log_left.double().exp().scatter(1, chosen, 0.0)
    mass = rest.sum(1, keepdim=True)
    is_empty = mass <= 0
    # Drawn on the CPU, where a generator gives the same numbers for every device.
    uniform = torch.rand(len(rest), num_draws, generator=generator, dtype=torch.float64).to(rest.device)
    cumulated = rest.cumsum(1)
    drawn = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)
    drawn = torch.where(is_empty, chosen[:, :1], drawn.clamp_max(rest.shape[1] - 1))
    part = (mass / num_draws).log().expand(-1, num_draws)  # -inf where there is no rest
    return Candidates(
        torch.cat([chosen, drawn], 1),
        torch.cat([log_left.gather(1, chosen).double(), part], 1),
        num_draws,
    )


def branches(view: View, row: int, places: Places, ids: Tensor) -> Branches:
    """Args: view is the clean batch; places are of this row; ids [n, candidates]."""
    device, num_ids = ids.device, ids.shape[1]
    text, position, document = (x[row] for x in (view["input_ids"], view["position_ids"], documents(view)))
    first = int(places.columns.max())
    widths, columns = (x.repeat_interleave(num_ids) for x in (places.widths, places.columns))
    owner = torch.arange(len(widths), device=device).repeat_interleave(widths)
    offset = torch.arange(len(owner), device=device) - (widths.cumsum(0) - widths)[owner]
    column = columns[owner]
    tokens = torch.where(offset == 0, ids.flatten()[owner], text[column + offset])
    before = torch.arange(first, device=device)
    same = document[:first]
    of_text = (same[:, None] == same) & (before[:, None] >= before)
    to_text = (document[column][:, None] == same) & (column[:, None] > before)
    to_branch = (owner[:, None] == owner) & (offset[:, None] >= offset)
    visible = torch.cat(
        [
            torch.cat([of_text, of_text.new_zeros(first, len(owner))], 1),
            torch.cat([to_text, to_branch], 1),
        ]
    )
    made = {
        "input_ids": torch.cat([text[:first], tokens]).unsqueeze(0),
        "position_ids": torch.cat([position[:first], position[column] + offset]).unsqueeze(0),
        "visible": visible[None, None],
    }
    return Branches(made, first, owner, text[column + offset + 1])


def log_products(
    teach: Teach, view: View, places: Places, ids: Tensor, excluded: int, max_tokens: int, chunk_tokens: int
) -> Tensor:
    """sum_j log p(x_j | x_<i, v, x_i+1..j-1) of each place and candidate, float64 as ids [n, candidates].

    Args: view is the clean batch; excluded is no outcome of the teacher's; max_tokens of branches are asked
    for at a time (one place's, at least), chunk_tokens have logits at the same time.
    """
    found = torch.empty(ids.shape, dtype=torch.float64, device=ids.device)
    for row, chosen in _passes(places, ids.shape[1], max_tokens):
        tree = branches(view, row, places[chosen], ids[chosen])
        said = teach(tree.view, Capture(predictions=True)).predictions
        assert isinstance(said, DensePredictions)
        hidden = said.hidden[0, tree.first :]
        sums = found.new_zeros(len(chosen) * ids.shape[1])
        for part in torch.arange(len(hidden), device=hidden.device).split(chunk_tokens):
            logs = log_distribution(hidden[part] @ said.head_weight.T, excluded)
            of_targets = logs.gather(1, tree.targets[part].unsqueeze(1)).squeeze(1)
            sums.index_add_(0, tree.owner[part], of_targets.double())
        found[chosen] = sums.view(len(chosen), -1)
    return found


def _passes(places: Places, num_ids: int, max_tokens: int) -> Iterator[tuple[int, Tensor]]:
    """Places of one row whose branches fit in a pass."""
    for row in places.rows.unique().tolist():
        numbers = (places.rows == row).nonzero().squeeze(1)
        chosen: list[int] = []
        used = 0
        for number, width in zip(numbers.tolist(), places.widths[numbers].tolist(), strict=True):
            if chosen and used + width * num_ids > max_tokens:
                yield row, torch.tensor(chosen, device=numbers.device)
                chosen, used = [], 0
            chosen.append(number)
            used += width * num_ids
        yield row, torch.tensor(chosen, device=numbers.device)


def log_distribution(logits: Tensor, excluded: int) -> Tensor:
    """log softmax in float32, without the token `excluded` where there is one of this number."""
    logits = logits.float()
    if excluded < logits.shape[-1]:
        logits = logits.clone()
        exclude_token(logits, excluded)
    return logits.log_softmax(-1)


def concrete_score(found: Candidates, log_product: Tensor) -> SparsePredictions:
    """Probabilities of the candidates, [1, n, candidates]; what they lack to 1 is the rest's.

    log_product: as the ids of `found`.
    """
    shares = (found.log_left + log_product).softmax(1)
    kept = shares.shape[1] - found.num_draws
    return SparsePredictions(found.ids[None, :, :kept], shares[None, :, :kept].float(), has_tail=True)
