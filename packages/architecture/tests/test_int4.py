"""4-bit weights against the equations in float64 numpy, and what files are promised of scales and offsets."""

import numpy as np
import pytest
import torch

from bitnet_arch import BitLinear, quantizer, set_precision
from wf_formats.errors import RequestError

SCHEMES = [f"int4-group{size}{zeros}" for zeros in ("", "-zero") for size in (128, 64, 32)]


def weight_of(seed: int, shift: float = 0.0) -> torch.Tensor:
    """[24, 256] with groups of many sizes, one of them of zeros."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(24, 256, generator=generator) + shift
    weight *= torch.logspace(-4, 3, 24).unsqueeze(1)
    weight[3, :128] = 0
    return weight


def reference(weight: np.ndarray, size: int, scales: np.ndarray, has_zeros: bool) -> np.ndarray:
    """W' by the equations in float64 with the scales given, which files round."""
    grouped, s = (
        weight.astype(np.float64).reshape(len(weight), -1, size),
        scales[..., None].astype(np.float64),
    )
    zeros = np.rint(-np.minimum(grouped.min(-1, keepdims=True), 0) / s) - 8 if has_zeros else np.zeros_like(s)
    codes = np.clip(np.rint(grouped / s) + zeros, -8, 7)
    return (s * (codes - zeros)).reshape(weight.shape)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_weights_follow_the_equations(scheme: str, shift: float) -> None:
    weight, has_zeros = weight_of(1, shift), scheme.endswith("zero")
    size = int(scheme.removesuffix("-zero").removeprefix("int4-group"))
    matrix = quantizer(scheme).quantize(weight)
    assert (matrix.codes.dtype, matrix.bits, matrix.group_size) == (torch.int8, 4, size)
    grouped = weight.numpy().astype(np.float64).reshape(24, -1, size)
    high, low = np.maximum(grouped.max(-1), 0), np.minimum(grouped.min(-1), 0)
    wanted = np.maximum((high - low) / 15 if has_zeros else np.maximum(high / 7, -low / 8), 1e-5)
    scales = matrix.scales.numpy()
    np.testing.assert_allclose(scales, wanted, rtol=2**-7 if has_zeros else 2**-10, atol=2**-24)
    values = reference(weight.numpy(), size, scales, has_zeros)
    np.testing.assert_allclose(matrix.values().numpy(), values, rtol=1e-6)
    # Nothing is cut off: half a step, and what rounding a scale moves the ends by.
    steps = np.abs(values.reshape(grouped.shape) - grouped) / scales[..., None]
    assert steps.max() < (0.62 if has_zeros else 0.51)
    assert shift or set(matrix.codes.unique().tolist()) == set(range(-8, 8))


@pytest.mark.parametrize("scheme", ["int4-group64", "int4-group32-zero"])
def test_float16_holds_scales_and_what_blocks_store(scheme: str) -> None:
    matrix = quantizer(scheme).quantize(weight_of(2, 1.0))
    assert torch.equal(matrix.scales.half().float(), matrix.scales)
    if matrix.offsets is not None:
        least = matrix.offsets - 8 * matrix.scales
        for offsets in (matrix.offsets, least):
            assert torch.equal(offsets.half().float(), offsets)
        zeros = matrix.offsets / matrix.scales
        assert torch.equal(zeros, zeros.round())
    assert not matrix.values()[3, :128].any()


def test_symmetric_values_are_values_of_themselves() -> None:
    rounding = quantizer("int4-group64")
    matrix = rounding.quantize(weight_of(3))
    again = rounding.quantize(matrix.values())
    assert torch.equal(again.codes, matrix.codes)
    assert torch.equal(again.scales, matrix.scales)


def test_inputs_stay_as_they_are() -> None:
    layer = BitLinear(64, 8, quantizer=quantizer("int4-group32-zero"))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(4))
    expected = x @ layer.quantizer.quantize(layer.weight).values().t()
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_rows_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"rows of 576 .* that fit: int4-group64, int4-group32"):
        BitLinear(576, 8, quantizer=quantizer("int4-group128"))
    with pytest.raises(ValueError, match="schemes that fit: none"):
        BitLinear(40, 8, quantizer=quantizer("int4-group32"))


def test_inputs_that_stay_as_they_are_have_no_products_of_integers() -> None:
    with pytest.raises(RequestError, match="weights or inputs of scheme int4-group64 are none"):
        set_precision(BitLinear(64, 4, quantizer=quantizer("int4-group64")), "int8")
