"""Low-rank corrections in closed form, against regression on the data itself, and through the walk."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

import bitnet_arch
from bitnet_arch import Int8PerToken, bit_linears, quantizer
from bitnet_arch.low_rank import corrected_linears
from wf_ptq import (
    BlockError,
    BlockOptions,
    BlockRunner,
    Distiller,
    DistilOptions,
    LowRankMethod,
    TernaryMethod,
    walk_blocks,
)
from wf_ptq.inputs import input_groups
from wf_ptq.low_rank.residuals import Residuals, linear_residuals
from wf_ptq.low_rank.solve import solve_correction

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.randint(0, 512, (12, 48), generator=torch.Generator().manual_seed(5))


class Memory(dict):  # type: ignore[type-arg]
    def save(self, name: str, tensors: Any, report: Any) -> None:
        self[name] = {key: tensor.clone() for key, tensor in tensors.items()}, dict(report)

    def load(self, name: str) -> Any:
        return self[name]


class Data:
    """Correlated inputs x [tokens, in], and what ternary weights of W [out, in] lack on them in int8."""

    def __init__(self, num_out: int, num_in: int) -> None:
        generator = np.random.default_rng(num_out)
        mix = generator.normal(size=(num_in, num_in)) * np.linspace(0.1, 2, num_in)
        self.x = generator.normal(size=(600, num_in)) @ mix
        weight = torch.from_numpy(generator.normal(size=(num_out, num_in)))
        ternary = quantizer("group64").quantize(weight.float()).values().double().numpy()
        rounded = Int8PerToken().quantize(torch.from_numpy(self.x).float()).values().double().numpy()
        self.target = self.x @ weight.numpy().T
        self.residual = self.target - rounded @ ternary.T

    @property
    def moments(self) -> Residuals:
        inputs, cross = self.x.T @ self.x, self.residual.T @ self.x
        return Residuals(
            torch.from_numpy(inputs), torch.from_numpy(cross), _energy(self.residual), _energy(self.target)
        )

    def regression(self, damping: float) -> np.ndarray:
        """The ridge regression of the residual on x [in, out], by least squares on more rows."""
        num_in = self.x.shape[1]
        ridge = damping * _energy(self.x) / num_in
        x = np.vstack([self.x, np.sqrt(ridge) * np.eye(num_in)])
        residual = np.vstack([self.residual, np.zeros((num_in, self.residual.shape[1]))])
        found: np.ndarray = np.linalg.lstsq(x, residual, rcond=None)[0]
        return found

    def reduced_rank(self, rank: int, damping: float) -> np.ndarray:
        """M [out, in]: the regression, projected onto the leading directions of what it predicts."""
        ridge = damping * _energy(self.x) / self.x.shape[1]
        x = np.vstack([self.x, np.sqrt(ridge) * np.eye(self.x.shape[1])])
        whole = self.regression(damping)
        directions = np.linalg.svd(x @ whole, full_matrices=False)[2][:rank]
        return (whole @ directions.T @ directions).T

    def error(self, correction: np.ndarray) -> float:
        return _energy(self.residual - self.x @ correction.T) / _energy(self.target)


def _energy(values: np.ndarray) -> float:
    return float(np.square(values).sum())


@pytest.mark.parametrize(("num_out", "num_in"), [(96, 64), (48, 64), (64, 64)])
@pytest.mark.parametrize("rank", [1, 7, 48])
def test_the_closed_form_is_reduced_rank_regression(num_out: int, num_in: int, rank: int) -> None:
    data = Data(num_out, num_in)
    found = solve_correction(data.moments, rank, damping=0.01)
    product = (found.u @ found.v.t()).double().numpy()
    expected = data.reduced_rank(rank, damping=0.01)
    np.testing.assert_allclose(product, expected, rtol=0, atol=2e-6 * np.abs(expected).max() * rank)
    assert found.before == pytest.approx(data.error(np.zeros_like(product)))
    assert found.after == pytest.approx(data.error(product), rel=1e-4)
    torch.testing.assert_close(found.u.norm(dim=0), found.v.norm(dim=0))


def test_errors_fall_with_the_rank_to_the_least_squares_optimum() -> None:
    data = Data(96, 64)
    errors = [solve_correction(data.moments, rank, damping=1e-9).after for rank in (1, 4, 16, 32, 64)]
    assert all(lower < higher for higher, lower in itertools.pairwise(errors))
    assert errors[-1] == pytest.approx(data.error(data.regression(1e-12).T), rel=1e-4)
    assert errors[-1] < 0.5 * errors[0]


def test_moments_that_cannot_be() -> None:
    moments = Data(96, 64).moments
    singular = torch.ones(64, 64, dtype=torch.float64)
    singular[0, 1] = singular[1, 0] = 1.1
    with pytest.raises(ValueError, match="damping 1e-06 is too small, raise it"):
        solve_correction(Residuals(singular, moments.cross, 1, 1), 4, damping=1e-6)
    with pytest.raises(ValueError, match=r"damping inf makes .* infinite: lower it"):
        solve_correction(moments, 4, damping=math.inf)
    with pytest.raises(ValueError, match="not finite"):
        solve_correction(Residuals(singular * torch.nan, moments.cross, 1, 1), 4, damping=0.01)
    silent = solve_correction(Residuals(moments.inputs * 0, moments.cross * 0, 0, 0), 4, damping=0.01)
    assert torch.equal(silent.u @ silent.v.t(), torch.zeros(96, 64))


@pytest.mark.parametrize("scheme", ["tensor", "group64"])
def test_residuals_are_the_papers_moments(make_pair: Any, scheme: str) -> None:
    """W S_x - Q(W) S_xy^T, with the original's W on what comes before SubLN."""
    student, teacher = make_pair("tiny_llama", scheme)
    block, original = student.model.layers[0], teacher.model.layers[0]
    inputs = teacher.model.embed_tokens(IDS)
    layers = next(group for group in input_groups(block) if "mlp.down_proj" in group)
    layer, seen = layers["mlp.down_proj"], []
    run = BlockRunner(student)
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = linear_residuals(run, block, original, layers, inputs)["mlp.down_proj"]
    hook.remove()
    raw = torch.cat(seen).flatten(0, 1)
    x = raw if layer.sub_norm is None else layer.sub_norm(raw)
    rounded = layer.activation.quantize(x).values().double()
    ternary = layer.quantizer.quantize(layer.weight).values().double()
    raw, x = raw.double(), x.double()
    expected = original.mlp.down_proj.weight.double() @ (raw.t() @ x) - ternary @ (rounded.t() @ x)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found.cross.double(), expected, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(found.inputs.double(), x.t() @ x, rtol=1e-4, atol=1e-3)


def _corrected(make_pair: Any, scheme: str, rank: int, store: Memory) -> tuple[Any, list[Any]]:
    student, teacher = make_pair("tiny_llama", scheme)
    bitnet_arch.install_low_rank(student, rank)
    method = LowRankMethod.between(student, teacher)
    return student, [report for _, report in walk_blocks(student, teacher, IDS, method, store, seed=0)]


@pytest.mark.parametrize("scheme", ["tensor", "group64"])
def test_linears_come_closer_and_ternary_weights_stay(make_pair: Any, scheme: str) -> None:
    before, _ = make_pair("tiny_llama", scheme)
    student, reports = _corrected(make_pair, scheme, 24, Memory())
    for report in reports:
        assert len(report["before"]) == 7
        assert all(report["after"][name] < report["before"][name] for name in report["before"])
    # The first block gets the original's stream; later ones answer for errors that no linear is to blame for.
    assert reports[0]["stream"] < 0.8 * reports[0]["stream_before"]
    assert len(list(corrected_linears(student))) == 14
    for (name, layer), (_, old) in zip(bit_linears(student), bit_linears(before), strict=True):
        assert torch.equal(layer.weight, old.weight), name


def test_a_stopped_walk_goes_on_to_the_bit(make_pair: Any) -> None:
    store = Memory()
    whole, _ = _corrected(make_pair, "group64", 8, store)
    first = Memory({"model.layers.0": store["model.layers.0"]})
    resumed, _ = _corrected(make_pair, "group64", 8, first)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_other_methods_refuse_what_they_would_lose(make_pair: Any) -> None:
    student, teacher = make_pair("tiny_llama", "group64")
    bitnet_arch.install_low_rank(student, 2)
    with pytest.raises(ValueError, match=r"low-rank correction \(rank 2\)"):
        Distiller(copy.deepcopy(student), teacher, DistilOptions(), seed=0)
    with pytest.raises(BlockError, match=r"model\.layers\.0: .* low-rank correction \(rank 2\)"):
        next(walk_blocks(student, teacher, IDS, TernaryMethod(BlockOptions()), Memory(), seed=0))
