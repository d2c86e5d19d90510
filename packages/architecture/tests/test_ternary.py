"""The ternary maths against numpy on paper-sized examples and its algebraic properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_arch import Int8PerToken, quantizer

SCHEMES = ["tensor", "group64", "group128"]


def reference(weight: np.ndarray, group: int) -> np.ndarray:
    """W' by the paper's equations in float64; `group` divides the flattened rows' scale groups."""
    grouped = weight.astype(np.float64).reshape(-1, group)
    scale = np.abs(grouped).mean(1, keepdims=True)
    return (np.clip(np.rint(grouped / scale), -1, 1) * scale).reshape(weight.shape)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_follow_the_equations(scheme: str) -> None:
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(1))
    matrix = quantizer(scheme).quantize(weight)
    group = {"tensor": weight.numel(), "group64": 64, "group128": 128}[scheme]
    np.testing.assert_allclose(matrix.values().numpy(), reference(weight.numpy(), group), rtol=2e-6)
    assert matrix.codes.dtype == torch.int8
    assert set(matrix.codes.unique().tolist()) == {-1, 0, 1}


def test_known_numbers() -> None:
    weight = torch.tensor([[1.0, -0.2, 0.6, -2.2]])  # absmean 1.0
    matrix = quantizer("tensor").quantize(weight)
    assert matrix.codes.tolist() == [[1, 0, 1, -1]]
    assert matrix.scales.item() == pytest.approx(1.0)
    x = Int8PerToken().quantize(torch.tensor([[0.5, -1.27, 0.004, 0.006]]))
    assert x.codes.tolist() == [[50, -127, 0, 1]]
    assert x.inverse_scale.item() == pytest.approx(100.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_activation_error_is_half_a_step(seed: int, magnitude: float) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)) * magnitude
    rounded = Int8PerToken().quantize(x)
    error = (rounded.values() - x).abs()
    assert (error <= 0.5001 / rounded.inverse_scale).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_zero_matrix_and_zero_tokens_stay_zero(scheme: str) -> None:
    matrix = quantizer(scheme).quantize(torch.zeros(4, 128))
    assert not matrix.codes.any()
    assert torch.isfinite(matrix.scales).all()
    x = Int8PerToken().quantize(torch.zeros(2, 8))
    assert not x.codes.any()
    assert torch.isfinite(x.inverse_scale).all()


def test_scheme_text_round_trips_and_errors_name_the_value() -> None:
    for text in SCHEMES:
        assert str(quantizer(text)) == text
    for bad in ["group32", "groups", "", "row"]:
        with pytest.raises(ValueError, match=bad.removeprefix("group") or "unknown"):
            quantizer(bad)
    with pytest.raises(ValueError, match="rows of 96 inputs do not divide into groups of 64"):
        quantizer("group64").quantize(torch.ones(2, 96))
