"""Master weights for readers that hold numpy arrays: quantized by the one definition.

`wf_formats.models.open_model` reads folders of float master weights with it and has no formula of its
own, so that an inference engine runs the codes of training to the bit.
"""

from __future__ import annotations

import numpy as np
import torch

from bitnet_arch.quantizers import quantizer
from wf_formats.matrix import NumpyMatrix
from wf_formats.phases import PhaseMatrix


def quantize_master(weight: np.ndarray, scheme: str) -> NumpyMatrix | PhaseMatrix:
    """Codes (or phases) and scales of master weights.

    Args:
        weight: fp32 [out, in].
        scheme: name of a quantizer.

    Raises:
        ValueError: an unknown scheme, or rows that the quantizer does not fit.
    """
    found: NumpyMatrix | PhaseMatrix = (
        quantizer(scheme).quantize(torch.from_numpy(weight)).to(torch.Tensor.numpy)
    )
    return found
