"""Exports ternary checkpoints to GGUF and Hugging Face formats, and proves the exports.

    prepare_gguf(folder, "auto", "q8_0").write(path)
    prepare_hf(folder).write(folder)
    verify.verify(folder, path, ids).passed

Importing `wf_converter.hf_packed` registers the loader of packed folders with transformers.
"""

from typing import Any

__all__ = ["ExportError", "load_export", "prepare_gguf", "prepare_hf"]

_HOMES = {
    "ExportError": "wf_converter.errors",
    "load_export": "wf_converter.verify",
    "prepare_gguf": "wf_converter.gguf_export",
    "prepare_hf": "wf_converter.hf_export",
}


def __getattr__(name: str) -> Any:
    """Loads on first use, so that `--help` does not wait for torch."""
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
