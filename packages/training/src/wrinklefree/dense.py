"""The dense model that a configuration names: the one to convert, and the teacher."""

from __future__ import annotations

from typing import Any

import torch

import bitnet_arch
from wf_formats.packaged import ModelSource
from wrinklefree.errors import RunError


def load_dense_model(
    source: ModelSource, name: str | None, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """The model in evaluation mode, and its tokenizer.

    Raises: RunError (a name that is missing, unknown or cannot be reached), CheckpointError.
    """
    try:
        return bitnet_arch.load_dense(source.value, name, dtype)
    except bitnet_arch.CheckpointError:
        raise
    except (ValueError, OSError) as error:
        raise RunError(f"cannot load the dense model {source.value} {name or ''}: {error}") from error
