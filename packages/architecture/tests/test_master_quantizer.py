"""Readers without torch get the codes and scales of the one definition."""

import numpy as np
import pytest
import torch

from bitnet_arch import quantizer
from bitnet_arch.master_quantizer import quantize_master


@pytest.mark.parametrize("scheme", ["tensor", "group64", "group128"])
@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_codes_and_scales_are_equal_to_the_bit(scheme: str, size: float) -> None:
    weight = (np.random.default_rng(6).normal(size=(301, 384)) * size).astype(np.float32)
    weight[7] = 0
    expected = quantizer(scheme).quantize(torch.from_numpy(weight))
    found = quantize_master(weight, scheme)
    np.testing.assert_array_equal(found.codes, expected.codes.numpy())
    np.testing.assert_array_equal(found.scales, expected.scales.numpy())
    assert found.granularity == scheme


def test_rows_must_divide() -> None:
    with pytest.raises(ValueError, match="rows of 96 inputs do not divide into groups of 64"):
        quantize_master(np.ones((1, 96), np.float32), "group64")
