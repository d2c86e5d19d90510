"""Models from files: GGUF, our packed folders, packed BitNet folders and training checkpoints.

    open_model(path)   checks the file and gives a `ModelSource`: codes and scales, tensor by tensor
    load_model(path)   packs them for the decoder

Nothing that changes answers is ignored: an unknown setting, tensor or type is refused by name.
"""

from __future__ import annotations

from pathlib import Path

from ternary_kernels.gguf import open_gguf
from ternary_kernels.loading.assemble import ModelSource, assemble
from ternary_kernels.loading.errors import LoadError
from ternary_kernels.loading.gguf_model import open_gguf_model
from ternary_kernels.loading.hf_model import open_hf_model
from ternary_kernels.loading.tensors import GroupTensor, TernaryTensor
from ternary_kernels.mapping import trim_heap
from ternary_kernels.weights import ModelWeights

__all__ = ["GroupTensor", "LoadError", "ModelSource", "TernaryTensor", "load_model", "open_model"]


def open_model(path: Path | str) -> ModelSource:
    """Opens a GGUF file or a Hugging Face folder and checks everything but the values.

    Raises:
        LoadError: the model cannot run here; the message says why and what would help.
        GgufError: the file is damaged (a ValueError, as LoadError is).
        OSError: it is missing or cannot be read.
    """
    path = Path(path)
    try:
        return open_hf_model(path) if path.is_dir() else open_gguf_model(open_gguf(path))
    except LoadError as error:
        if str(error).startswith(str(path)):
            raise
        raise LoadError(f"{path}: {error}") from error


def load_model(path: Path | str) -> ModelWeights:
    """Loads a model for `Decoder`.

    Memory: the packed model, and one unpacked matrix while loading. Time: 3 ns of a core a weight
    (7 s for 2.4 billion weights).

    Raises:
        LoadError, GgufError, OSError: as `open_model`; or a matrix is not ternary.
    """
    weights = assemble(open_model(path))
    trim_heap()
    return weights
