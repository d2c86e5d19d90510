"""The target of TCS distillation on a Markov chain, whose conditionals are known by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from wrinklefree.capture import Capture, ForwardResult, View
from wrinklefree.predictions import DensePredictions
from wrinklefree_distillation.losses import concrete_score as tcs

V, T, EXCLUDED = 8, 6, 8
"""EXCLUDED is the mask token: the teacher has no row for it."""


class Chain:
    """A first-order Markov chain as a teacher: its hidden states say the token at hand."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.log_next = (2 * torch.randn(V, V, generator=generator, dtype=torch.float64)).log_softmax(-1)
        self.num_tokens = 0

    def __call__(self, view: View, capture: Capture) -> ForwardResult:
        assert capture.predictions
        ids = view["input_ids"]
        self.num_tokens += ids.numel()
        hidden = torch.nn.functional.one_hot(ids, V).float()
        return ForwardResult(1, predictions=DensePredictions(hidden, self.log_next.T.float()))

    def log_joint(self, text: Tensor) -> Tensor:
        """log p(x_1.. | x_0) of texts [..., tokens]."""
        return self.log_next[text[..., :-1], text[..., 1:]].sum(-1)

    def exact(self, text: Tensor, column: int) -> Tensor:
        """p(x_column = v | all others) of one text, by enumeration."""
        every = text.repeat(V, 1)
        every[:, column] = torch.arange(V)
        return self.log_joint(every).softmax(0)


def _batch(*lengths: int, rows: int = 2, seed: int = 3) -> View:
    """Rows of documents of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (rows, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths]).repeat(rows, 1)
    return {"input_ids": ids, "position_ids": positions}


def _score(
    chain: Chain, view: View, places: tcs.Places, num_candidates: int = V, num_draws: int = 1, **options: Any
) -> tuple[Any, tcs.Candidates, Tensor]:
    """The targets, candidates and the left-only distribution of the places."""
    said = chain(view, Capture(predictions=True)).predictions
    left = tcs.log_distribution(said.hidden[places.rows, places.columns - 1] @ said.head_weight.T, EXCLUDED)
    own = view["input_ids"][places.rows, places.columns]
    found = tcs.candidates(left, own, num_candidates, num_draws, torch.Generator().manual_seed(0))
    options = {"max_tokens": 100, "chunk_tokens": 7} | options
    products = tcs.log_products(chain, view, places, found.ids, EXCLUDED, **options)
    return tcs.concrete_score(found, products), found, left.exp()


def _dense(score: Any) -> Tensor:
    """[n, V] of targets without a tail."""
    return torch.zeros(score.ids.shape[1], V).scatter_add(1, score.ids[0], score.weights[0])


def _all_places(view: View, width: int) -> tcs.Places:
    """All tokens with another one on both sides; up to `width` to the right, within the document."""
    places = []
    for row, positions in enumerate(view["position_ids"].tolist()):
        ends = [i + 1 for i, p in enumerate(positions) if [*positions, 0][i + 1] == 0]
        for column, position in enumerate(positions):
            room = next(end for end in ends if end > column) - column - 1
            if position and room:
                places.append((row, column, min(width, room)))
    return tcs.Places(*torch.tensor(places).T)


@pytest.mark.parametrize("max_tokens", [1, 50, 10_000])
def test_the_product_formula_is_the_exact_conditional(max_tokens: int) -> None:
    chain, view = Chain(), _batch(T)
    places = _all_places(view, T)
    score, _, left = _score(chain, view, places, max_tokens=max_tokens)
    exact = torch.stack(
        [chain.exact(view["input_ids"][r], c) for r, c in zip(places.rows, places.columns, strict=True)]
    )
    torch.testing.assert_close(_dense(score).double(), exact, atol=1e-6, rtol=0)
    assert (left.double() - exact).abs().sum(-1).min() > 0.05  # what left-only leaves out


def test_the_last_token_has_its_left_context_alone() -> None:
    chain, view = Chain(), _batch(T, rows=1)
    exact = chain.exact(view["input_ids"][0], T - 1)
    torch.testing.assert_close(exact, chain.log_next[view["input_ids"][0, T - 2]].exp())


def test_a_chain_forgets_what_is_beyond_its_neighbours() -> None:
    """A window of one token is exact for a first-order chain."""
    chain, view = Chain(), _batch(T)
    one, all_of_it = (_dense(_score(chain, view, _all_places(view, width))[0]) for width in (1, T))
    torch.testing.assert_close(one, all_of_it, atol=1e-6, rtol=0)


def test_tower_rule() -> None:
    """The mean of the exact target over what is hidden is what the visible tokens say: it is unbiased, and
    the left-only target is not."""
    chain, start, place, last = Chain(), 2, 2, 4  # visible: x_0 .. x_1 and x_4; hidden: x_2 (asked), x_3
    texts = torch.tensor([[start, 5, *hidden, 1] for hidden in itertools.product(range(V), repeat=2)])
    joint = chain.log_joint(texts).softmax(0)  # p(x_2, x_3 | visible)
    expected = torch.zeros(V, dtype=torch.float64).index_add(0, texts[:, place], joint)
    rows = torch.arange(len(texts))
    view = {"input_ids": texts, "position_ids": torch.arange(5).repeat(len(texts), 1)}
    places = tcs.Places(rows, torch.full_like(rows, place), torch.full_like(rows, last - place))
    score, _, left = _score(chain, view, places)
    mean = (joint[:, None] * _dense(score)).sum(0)
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)
    assert (left[0].double() - expected).abs().sum() > 0.05


def test_packed_documents_are_those_alone() -> None:
    chain, view = Chain(), _batch(4, 5, 3)
    places = _all_places(view, 3)
    packed = _dense(_score(chain, view, places)[0])
    assert len(places) == 2 * (2 + 3 + 1)
    for index, (row, column, width) in enumerate(zip(*vars(places).values(), strict=True)):
        begin = int(column - view["position_ids"][row, column])
        alone = {n: x[row : row + 1, begin : column + width + 1] for n, x in view.items()}
        place = tcs.Places(torch.tensor([0]), (column - begin)[None], width[None])
        torch.testing.assert_close(packed[index], _dense(_score(chain, alone, place)[0])[0])


def test_what_is_no_candidate_keeps_its_share() -> None:
    """Few candidates: the tail's weight, over many draws, is what they leave; nothing is renormalised."""
    chain, view = Chain(), _batch(T)
    places = _all_places(view, 2)
    exact, _, _ = _score(chain, view, places)
    score, found, _ = _score(chain, view, places, num_candidates=3, num_draws=4000)
    kept = _dense(exact).gather(1, score.ids[0])
    torch.testing.assert_close(score.weights[0], kept, atol=0.02, rtol=0)
    assert (score.weights.sum(-1) < 0.97).any()
    own = view["input_ids"][places.rows, places.columns]
    assert (score.ids[0] == own[:, None]).any(1).all()  # the text's own token, likely or not
    for ids in found.ids[:, 3:], found.ids[:, :1]:
        assert not (ids[:, :, None] == score.ids[0][:, None, 1:]).any()  # draws are of the rest


def test_cost_is_as_stated() -> None:
    chain, view = Chain(), _batch(T, rows=1)
    places = tcs.Places(*torch.tensor([[0, 2, 3], [0, 3, 2]]).T)
    ids = torch.zeros(2, 5, dtype=torch.long)
    tcs.log_products(chain, view, places, ids, EXCLUDED, max_tokens=100, chunk_tokens=100)
    assert chain.num_tokens == 3 + 5 * (3 + 2)  # the text up to the last place, and (candidates) x width


def test_branches_are_the_altered_texts_of_a_real_model(tiny_llama: Any) -> None:
    from wrinklefree.teachers.local import LocalTeacher

    teacher = LocalTeacher(tiny_llama(vocab_size=V + 1))
    view = _batch(4, 7)
    places, ids = _all_places(view, 3), None
    ids = torch.randint(V, (len(places), 4), generator=torch.Generator().manual_seed(1))
    found = tcs.log_products(teacher.forward, view, places, ids, EXCLUDED, 30, 100)
    for index, (row, column, width) in enumerate(zip(*vars(places).values(), strict=True)):
        begin = int(column - view["position_ids"][row, column])
        for number, candidate in enumerate(ids[index]):
            text = view["input_ids"][row : row + 1, begin : column + width + 1].clone()
            text[0, column - begin] = candidate
            logits = teacher.model(input_ids=text).logits[0, column - begin : -1, :V].double()
            targets = text[0, column - begin + 1 :]
            expected = logits.log_softmax(-1).gather(1, targets[:, None]).sum()
            torch.testing.assert_close(found[index, number], expected, atol=1e-5, rtol=1e-5)
