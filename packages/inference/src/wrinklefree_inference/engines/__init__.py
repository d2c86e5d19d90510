"""Engines by name; the module of an engine is imported only when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from wf_formats.errors import RequestError
from wrinklefree_inference.engines.base import Engine
from wrinklefree_inference.options import (
    BitnetCppOptions,
    ClientOptions,
    ComputeOptions,
    EngineOptions,
    NativeOptions,
)


@dataclass(frozen=True)
class RegisteredEngine:
    """An engine's class ("module:Class", imported when it is asked for) and the type of its options."""

    path: str
    options: type

    def open(self, model: str | Path, options: Any) -> Engine:
        """Make the engine."""
        module, _, name = self.path.partition(":")
        return cast("Engine", getattr(import_module(module), name)(model, options))


ENGINES = {
    "native": RegisteredEngine("wrinklefree_inference.engines.native:NativeEngine", NativeOptions),
    "llamacpp": RegisteredEngine("wrinklefree_inference.llamacpp.engine:LlamaCppEngine", EngineOptions),
    "bitnetcpp": RegisteredEngine("wrinklefree_inference.bitnetcpp.engine:BitnetCppEngine", BitnetCppOptions),
    "openai": RegisteredEngine("wrinklefree_inference.engines.openai:OpenAIEngine", ClientOptions),
}


def engine_for(model: str | Path) -> str:
    """Name of the engine for `model`: `openai` for a URL, `native` for a .gguf file or a folder.

    Neither `llamacpp` nor `bitnetcpp` is chosen for you: what `native` refuses is refused, with the reason.

    Raises:
        RequestError: None of these; pass the engine's name yourself.
    """
    if str(model).startswith(("http://", "https://")):
        return "openai"
    if Path(model).suffix == ".gguf" or Path(model).is_dir():
        return "native"
    raise RequestError(
        f"no engine recognises {str(model)!r}: expected a .gguf file, a folder or an http(s) URL "
        f"(known engines: {', '.join(ENGINES)})"
    )


def check_engine(name: str) -> str:
    """The name of an engine, or RequestError."""
    if name not in ENGINES:
        raise RequestError(f"unknown engine {name!r} (known: {', '.join(ENGINES)})")
    return name


def open_engine(
    model: str | Path, engine: str | None = None, options: ComputeOptions | ClientOptions | None = None
) -> Engine:
    """Make the engine for `model`.

    Args:
        model: Path of a GGUF file or Hugging Face folder, or URL of an OpenAI-compatible server.
        engine: A key of `ENGINES`; None recognises it from `model`.
        options: Of the type that `ENGINES` names; None takes the defaults.

    Raises:
        ValueError: Unknown engine, one that cannot be recognised, or options of another engine.
        EngineError: The engine refuses the model.
    """
    name = check_engine(engine or engine_for(model))
    wanted = ENGINES[name].options
    if options is not None and not isinstance(options, wanted):
        raise RequestError(f"engine {name} takes {wanted.__name__}, got {type(options).__name__}")
    return ENGINES[name].open(model, options)
