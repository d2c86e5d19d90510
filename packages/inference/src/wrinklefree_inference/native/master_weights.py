"""Training checkpoints in the native engine: quantized by bitnet_arch, which is imported for them alone."""

from __future__ import annotations

import numpy as np

from wf_formats.errors import LoadError
from wf_formats.matrix import NumpyMatrix
from wf_formats.phases import PhaseMatrix


def quantize_master(weight: np.ndarray, scheme: str) -> NumpyMatrix | PhaseMatrix:
    """Codes (or phases) and scales of master weights fp32 [out, in]; the first call imports torch.

    Raises:
        LoadError: torch or bitnet_arch are not installed.
    """
    try:
        from bitnet_arch.master_quantizer import quantize_master as definition
    except ModuleNotFoundError as error:
        raise LoadError(
            f"it is a training checkpoint, whose weights bitnet-arch quantizes with PyTorch ({error}): "
            "install both (`uv sync` in a checkout), or export it where it was trained (`wf export "
            "--checkpoint FOLDER --output NAME.gguf`, complex weights --format phases "
            "--output NEW), which takes neither"
        ) from error
    return definition(weight, scheme)
