"""Whether a model is a block-diffusion model, by the head of its file; who takes others alone refuses it."""

from __future__ import annotations

from pathlib import Path

from wf_formats.diffusion import AUTOREGRESSIVE_REMEDY, BlockDiffusion, check_autoregressive, read_settings
from wf_formats.gguf import open_gguf
from wf_formats.models.gguf_config import gguf_diffusion


def diffusion_of(path: Path) -> BlockDiffusion | None:
    """What a folder's config.json or a GGUF file says; None: an autoregressive model.

    Raises:
        LoadError: there is no config.json, or what is said contradicts itself.
        GgufError, OSError: the file is damaged, or cannot be read.
    """
    if path.is_dir():
        return BlockDiffusion.from_settings(read_settings(path))
    return gguf_diffusion(open_gguf(path).keys)


def check_is_autoregressive(path: Path, what: str, remedy: str = AUTOREGRESSIVE_REMEDY) -> None:
    """Args: what: the command or engine that computes each token from those before it alone.

    Raises:
        ModelKindError: the model is a block-diffusion model.
        LoadError, GgufError, OSError: as `diffusion_of`.
    """
    check_autoregressive(diffusion_of(path), what, remedy, path)
