"""Training checkpoints in the native engine: quantized by bitnet_arch, which is imported for them alone."""

from __future__ import annotations

import numpy as np

from wf_formats.matrix import NumpyMatrix
from wf_formats.phases import PhaseMatrix


def quantize_master(weight: np.ndarray, scheme: str) -> NumpyMatrix | PhaseMatrix:
    """Codes (or phases) and scales of master weights fp32 [out, in]; the first call imports torch."""
    from bitnet_arch.master_quantizer import quantize_master as definition

    return definition(weight, scheme)
