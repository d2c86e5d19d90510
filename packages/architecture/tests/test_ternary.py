"""The ternary maths against numpy on paper-sized examples and its algebraic properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_arch.ternary import (
    WeightScheme,
    dequantize,
    dequantize_activation,
    quantize_activation,
    ternary_codes_and_scales,
)

SCHEMES = ["tensor", "group64", "group128"]


def reference(weight: np.ndarray, group: int) -> np.ndarray:
    """W' by the paper's equations in float64; `group` divides the flattened rows' scale groups."""
    grouped = weight.astype(np.float64).reshape(-1, group)
    scale = np.abs(grouped).mean(1, keepdims=True)
    return (np.clip(np.rint(grouped / scale), -1, 1) * scale).reshape(weight.shape)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_follow_the_equations(scheme: str) -> None:
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(1))
    codes, scales = ternary_codes_and_scales(weight, WeightScheme.parse(scheme))
    group = {"tensor": weight.numel(), "group64": 64, "group128": 128}[scheme]
    np.testing.assert_allclose(dequantize(codes, scales).numpy(), reference(weight.numpy(), group), rtol=2e-6)
    assert codes.dtype == torch.int8
    assert set(codes.unique().tolist()) == {-1, 0, 1}


def test_known_numbers() -> None:
    weight = torch.tensor([[1.0, -0.2, 0.6, -2.2]])  # absmean 1.0
    codes, scale = ternary_codes_and_scales(weight, WeightScheme.parse("tensor"))
    assert codes.tolist() == [[1, 0, 1, -1]]
    assert scale.item() == pytest.approx(1.0)
    x_codes, inverse_scale = quantize_activation(torch.tensor([[0.5, -1.27, 0.004, 0.006]]))
    assert x_codes.tolist() == [[50, -127, 0, 1]]
    assert inverse_scale.item() == pytest.approx(100.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_activation_error_is_half_a_step(seed: int, magnitude: float) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)) * magnitude
    codes, inverse_scale = quantize_activation(x)
    error = (dequantize_activation(codes, inverse_scale) - x).abs()
    assert (error <= 0.5001 / inverse_scale).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_zero_matrix_and_zero_tokens_stay_zero(scheme: str) -> None:
    codes, scales = ternary_codes_and_scales(torch.zeros(4, 128), WeightScheme.parse(scheme))
    assert not codes.any()
    assert torch.isfinite(scales).all()
    x_codes, inverse_scale = quantize_activation(torch.zeros(2, 8))
    assert not x_codes.any()
    assert torch.isfinite(inverse_scale).all()


def test_scheme_text_round_trips_and_errors_name_the_value() -> None:
    for text in SCHEMES:
        assert str(WeightScheme.parse(text)) == text
    for bad in ["group32", "groups", "", "row"]:
        with pytest.raises(ValueError, match=bad.removeprefix("group") or "unknown"):
            WeightScheme.parse(bad)
    with pytest.raises(ValueError, match="rows of 96 inputs do not divide into groups of 64"):
        ternary_codes_and_scales(torch.ones(2, 96), WeightScheme.parse("group64"))
