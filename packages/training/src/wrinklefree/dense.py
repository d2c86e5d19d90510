"""The dense model that a configuration names: the one to convert, and the teacher."""

from __future__ import annotations

from typing import Any

import torch

import bitnet_arch
from wf_formats.diffusion import BEFORE_DIFFUSION, BlockDiffusion, ModelKindError, check_autoregressive
from wf_formats.packaged import ModelSource
from wrinklefree.config.errors import ConfigError


def load_dense_model(
    source: ModelSource, name: str | None, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """The model in evaluation mode, and its tokenizer.

    Raises: ConfigError (a name that is missing or not wanted), SourceError (what it names cannot be used).
    """
    return open_dense_model(source, name).load(dtype)


def open_dense_model(source: ModelSource, name: str | None) -> bitnet_arch.DenseSource:
    """Its configuration, before any weight is read.

    Raises: ConfigError, SourceError, ModelKindError (a block-diffusion model).
    """
    try:
        opened = bitnet_arch.open_dense(source.value, name)
        diffusion = BlockDiffusion.from_settings(opened.settings)
        check_autoregressive(diffusion, "wf train", BEFORE_DIFFUSION, opened.name)
        return opened
    except (bitnet_arch.CheckpointError, ModelKindError):
        raise
    except ValueError as error:
        raise ConfigError(f"model.source, model.name: {error}") from error
