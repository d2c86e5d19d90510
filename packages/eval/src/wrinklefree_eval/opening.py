"""Opens a model of any kind; the runtime of a kind is imported when it is needed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from wf_formats.diffusion import BlockDiffusion, read_settings
from wf_formats.errors import UserError
from wrinklefree_eval.errors import EvalRequestError
from wrinklefree_eval.models import EvalModel, ModelKind, check_kind, recognise

DEFAULT_CONTEXT_TOKENS = 1024


def default_context(path: Path) -> int:
    """DEFAULT_CONTEXT_TOKENS, or all that the model has; of a block-diffusion model whole blocks of them, at
    least one."""
    with suppress(UserError, OSError):  # of what cannot be read whoever opens it says why
        longest, diffusion = _head(path)
        context = DEFAULT_CONTEXT_TOKENS
        if type(longest) is int and longest > 0:
            context = min(context, longest)
        if diffusion is not None:
            return max(context - context % diffusion.block_size, diffusion.block_size)
        return context
    return DEFAULT_CONTEXT_TOKENS


def _head(path: Path) -> tuple[Any, BlockDiffusion | None]:
    """The context that a file states, and what it denoises; a GGUF file of block diffusion was refused before
    (`check_kind`)."""
    if path.is_dir():
        settings = read_settings(path)
        return settings.get("max_position_embeddings"), BlockDiffusion.from_settings(settings)
    from wf_formats.gguf import open_gguf

    keys = open_gguf(path).keys
    return keys.get(f"{keys.get('general.architecture')}.context_length"), None


def open_model(
    path: Path,
    context_tokens: int | None = None,
    kind: ModelKind | None = None,
    num_threads: int | None = None,
    adapter: Path | None = None,
) -> EvalModel:
    """Load the model at `path`.

    Args:
        path: File or folder.
        context_tokens: Longest list of ids that will be scored; None: as `default_context`.
        kind: None recognises it.
        num_threads: None leaves it to the runtime.
        adapter: GGUF file of low-rank corrections beside a GGUF model.

    Raises:
        EvalError: It is not recognised or cannot be loaded.
        ModelKindError: It is a block-diffusion model, and the runtime of this kind scores none.
    """
    kind = kind or recognise(path)
    check_kind(path, kind)
    if context_tokens is None:
        context_tokens = default_context(path)
    if kind is ModelKind.GGUF:
        from wrinklefree_eval.llamacpp_model import LlamaCppModel

        return LlamaCppModel(path, context_tokens, num_threads, adapter)
    if kind is ModelKind.NATIVE:
        from wrinklefree_eval.native_model import NativeModel

        return NativeModel(path, context_tokens, num_threads, adapter)
    if adapter is not None:
        raise EvalRequestError(f"adapter {adapter} belongs to a GGUF file, which {path} is not: leave it out")
    from wrinklefree_eval.torch_loading import load_torch_model

    return load_torch_model(path, kind, context_tokens, num_threads)
