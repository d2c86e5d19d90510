from __future__ import annotations

import pytest
import torch

from data_handler import DataError
from data_handler.influence import ESTIMATORS, DataInf, Less, PreconditionedCosine, TracIn


@pytest.fixture
def sketches() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(9, 12, dtype=torch.float64), torch.randn(4, 12, dtype=torch.float64)


def test_closed_form_of_datainf_equals_the_dense_reference(sketches: tuple[torch.Tensor, ...]) -> None:
    train, probe = sketches
    damping = 0.1 * train.square().mean()
    inverses = [torch.linalg.inv(torch.outer(g, g) + damping * torch.eye(12)) for g in train]
    expected = train @ torch.stack(inverses).mean(0) @ probe.mean(0)
    torch.testing.assert_close(DataInf().scores(train, probe), expected, rtol=1e-10, atol=1e-5)


def test_datainf_ranks_as_the_exact_inverse_where_one_gradient_is_all(
    sketches: tuple[torch.Tensor, ...],
) -> None:
    """The mean of inverses is the inverse of the mean for one example."""
    train, probe = sketches[0][:1], sketches[1]
    hessian = train.T @ train + 0.1 * train.square().mean() * torch.eye(12)
    expected = train @ torch.linalg.solve(hessian, probe.mean(0))
    torch.testing.assert_close(DataInf().scores(train, probe), expected)


def test_tracin_is_the_gain_of_steps_of_sgd() -> None:
    """Of a quadratic loss |w - target|^2 / 2: small steps along each gradient from two checkpoints."""
    torch.manual_seed(0)
    checkpoints, targets = torch.randn(2, 6).double(), torch.randn(5, 6).double()
    probes = torch.randn(3, 6).double()
    rates = (1e-5, 3e-5)

    def probe_loss(weights: torch.Tensor) -> torch.Tensor:
        return (weights - probes).square().sum(1).mean() / 2

    train = torch.stack([weights - targets for weights in checkpoints])
    probe = torch.stack([weights - probes for weights in checkpoints])
    gains = [
        sum(
            probe_loss(weights) - probe_loss(weights - rate * (weights - target))
            for weights, rate in zip(checkpoints, rates, strict=True)
        )
        for target in targets
    ]
    found = TracIn(learning_rates=rates).scores(train, probe)
    torch.testing.assert_close(found, torch.stack(gains), rtol=1e-3, atol=1e-9)


def test_cosines_do_not_depend_on_lengths(sketches: tuple[torch.Tensor, ...]) -> None:
    train, probe = sketches
    lengths = torch.rand(9, 1).double() + 0.1
    for estimator in (PreconditionedCosine(), Less()):
        expected = estimator.scores(train, probe)
        torch.testing.assert_close(estimator.scores(train * lengths, probe), expected)
        assert expected.abs().max() <= 1
    rows = torch.stack([torch.cosine_similarity(train, row[None]) for row in probe])
    torch.testing.assert_close(PreconditionedCosine().scores(train, probe), rows.mean(0))


def test_less_weighs_checkpoints_with_their_learning_rates(sketches: tuple[torch.Tensor, ...]) -> None:
    train, probe = sketches
    several = Less(learning_rates=(1.0, 0.5)).scores(
        torch.stack([train, -train]), torch.stack([probe, probe])
    )
    torch.testing.assert_close(several, Less().scores(train, probe) * 0.5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_higher_helps_and_zeros_are_neutral(name: str, sketches: tuple[torch.Tensor, ...]) -> None:
    estimator = ESTIMATORS[name]()
    _, probe = sketches
    direction = probe.mean(0)
    train = torch.stack([direction, torch.zeros(12), -direction])
    helps, neutral, harms = estimator.scores(train, probe)
    assert helps > 0 > harms
    assert neutral == 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_bad_sketches_are_refused(name: str, sketches: tuple[torch.Tensor, ...]) -> None:
    estimator = ESTIMATORS[name]()
    train, probe = sketches
    damaged = train.clone()
    damaged[4, 2] = torch.nan
    for bad, said in (
        ((train, probe[:, :5]), "of one size"),
        ((train[:0], probe), "both need rows"),
        ((train, probe[0]), r"\[9, 12\] and probe \[12\]"),
        ((torch.stack([train, train]), torch.stack([probe, probe])), "for 1 checkpoint"),
        ((damaged, probe), "training row 4 is not finite"),
    ):
        with pytest.raises(DataError, match=said):
            estimator.scores(*bad)


def test_bad_settings_are_refused() -> None:
    for rates in ([], [0.0], [float("nan")], [1e-3, -1e-3]):
        with pytest.raises(DataError, match="learning_rates is"):
            TracIn(rates)
    with pytest.raises(DataError, match="damping is 0"):
        DataInf(0)
    with pytest.raises(DataError, match="all training gradients are zero"):
        DataInf().scores(torch.zeros(3, 4), torch.ones(1, 4))
