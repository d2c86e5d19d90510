"""Opens a model of any kind; the runtime of a kind is imported when it is needed."""

from __future__ import annotations

from pathlib import Path

from wrinklefree_eval.errors import EvalRequestError
from wrinklefree_eval.models import EvalModel, ModelKind, check_kind, recognise


def open_model(
    path: Path,
    context_tokens: int,
    kind: ModelKind | None = None,
    num_threads: int | None = None,
    adapter: Path | None = None,
) -> EvalModel:
    """Load the model at `path`.

    Args:
        path: File or folder.
        context_tokens: Longest list of ids that will be scored.
        kind: None recognises it.
        num_threads: None leaves it to the runtime.
        adapter: GGUF file of low-rank corrections beside a GGUF model.

    Raises:
        EvalError: It is not recognised or cannot be loaded.
        ModelKindError: It is a block-diffusion model, and the runtime of this kind scores none.
    """
    kind = kind or recognise(path)
    check_kind(path, kind)
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
