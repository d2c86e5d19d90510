"""Master weights for readers that hold numpy arrays: quantized by the one definition.

`wf_formats.models.open_model` reads folders of float master weights with it and has no formula of its
own, so that an inference engine runs the codes of training to the bit.
"""

from __future__ import annotations

import numpy as np
import torch

from bitnet_arch.ternary import WeightScheme, ternary_codes_and_scales
from wf_formats.matrix import NumpyMatrix, QuantizedMatrix


def quantize_master(weight: np.ndarray, scheme: str) -> NumpyMatrix:
    """Codes and scales of master weights.

    Args:
        weight: fp32 [out, in].
        scheme: `tensor`, `group64` or `group128`.

    Raises:
        ValueError: an unknown scheme, or rows that do not divide into groups.
    """
    codes, scales = ternary_codes_and_scales(torch.from_numpy(weight), WeightScheme.parse(scheme))
    return QuantizedMatrix(codes.numpy(), scales.numpy())
