from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from data_handler import DataError
from data_handler.influence import CountSketch


def stated_variance(a: Tensor, b: Tensor, size: int) -> float:
    """Of <sketch(a), sketch(b)> for matrices a and b: the module's sum, pair by pair."""
    rows, columns = a.shape
    places = list(product(range(rows), range(columns)))
    total = sum(
        a[p] ** 2 * b[q] ** 2 + a[p] * b[p] * a[q] * b[q]
        for p in places
        for q in places
        if p[0] != q[0] and p[1] != q[1]
    )
    for m in (a.T @ b, a @ b.T):
        pairs = m * m + m * m.T
        total += pairs.sum() - pairs.diagonal().sum()
    return float(total) / size


def test_a_sketch_is_what_its_definition_says() -> None:
    sketch = CountSketch(size=5, seed=3)
    gradients = {"first": torch.randn(2, 3, 4), "second": torch.randn(2, 2, 6)}
    expected = torch.zeros(2, 5)
    for name, gradient in gradients.items():
        hashes = sketch.hashes(name, *gradient.shape[1:])
        for i, j in product(range(gradient.shape[1]), range(gradient.shape[2])):
            place = (hashes.row_places[i] + hashes.column_places[j]) % 5
            expected[:, place] += hashes.row_signs[i] * hashes.column_signs[j] * gradient[:, i, j]
    torch.testing.assert_close(sketch.of(gradients), expected)


def test_hashes_are_the_same_on_every_machine() -> None:
    hashes = CountSketch(size=1000, seed=7).hashes("model.layers.0.mlp.down_proj.weight", 4, 3)
    assert hashes.row_places.tolist() == [820, 750, 344, 428]
    assert hashes.column_signs.tolist() == [-1.0, 1.0, 1.0]


@pytest.mark.parametrize("rank", [1, 6])
def test_inner_products_are_right_on_average_with_the_stated_variance(rank: int) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(6, rank) @ torch.randn(rank, 7) for _ in range(2))
    size, num_seeds = 32, 1000
    found = torch.empty(num_seeds)
    for seed in range(num_seeds):
        left, right = CountSketch(size, seed).of({"w": torch.stack([a, b])})
        found[seed] = left @ right
    variance = stated_variance(a, b, size)
    assert abs(found.mean() - (a * b).sum()) < 4 * (variance / num_seeds) ** 0.5
    assert found.var().item() == pytest.approx(variance, rel=0.25)
    norms = a.square().sum() * b.square().sum()
    assert variance <= 6 * norms / size


def test_matrices_have_hashes_of_their_own() -> None:
    sketch = CountSketch(64, seed=0)
    one, other = sketch.hashes("one", 50, 50), sketch.hashes("other", 50, 50)
    assert not torch.equal(one.row_places, other.row_places)
    assert not torch.equal(one.row_signs, one.column_signs)


@pytest.mark.parametrize(
    ("size", "seed", "said"),
    [
        (0, 0, "size is 0"),
        (-3, 0, "size is -3"),
        (8.5, 0, "size is 8.5"),
        (8, "a", "seed is 'a'"),
        (True, 0, "True"),
    ],
)
def test_bad_settings_are_refused(size: int, seed: int, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        CountSketch(size, seed)
    assert caught.value.exit_code == 2
