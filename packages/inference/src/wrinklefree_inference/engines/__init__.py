"""Engines by name; the module of an engine is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from wrinklefree_inference.engines.base import Engine

ENGINES = {
    "native": "wrinklefree_inference.engines.native:SyncNativeEngine",
    "llamacpp": "wrinklefree_inference.llamacpp.engine:LlamaCppEngine",
    "openai": "wrinklefree_inference.engines.openai:OpenAIEngine",
}


def engine_for(model: str | Path) -> str:
    """Name of the engine for `model`: `openai` for a URL, `native` for a .gguf file or a folder.

    `llamacpp` is never chosen for you: a file that `native` refuses is refused, with the reason.

    Raises:
        ValueError: None of these; pass the engine's name yourself.
    """
    if str(model).startswith(("http://", "https://")):
        return "openai"
    if Path(model).suffix == ".gguf" or Path(model).is_dir():
        return "native"
    raise ValueError(
        f"no engine recognises {str(model)!r}: expected a .gguf file, a folder or an http(s) URL "
        f"(known engines: {', '.join(ENGINES)})"
    )


def open_engine(model: str | Path, engine: str | None = None, **options: Any) -> Engine:
    """Make the engine for `model`.

    Args:
        model: Path of a GGUF file or Hugging Face folder, or URL of an OpenAI-compatible server.
        engine: A key of `ENGINES`; None recognises it from `model`.
        options: Keywords of the engine's class.

    Raises:
        ValueError: Unknown engine, or one that cannot be recognised.
        EngineError: The engine refuses the model.
    """
    name = engine or engine_for(model)
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r} (known: {', '.join(ENGINES)})")
    module, _, attribute = ENGINES[name].partition(":")
    return cast("Engine", getattr(import_module(module), attribute)(model, **options))
