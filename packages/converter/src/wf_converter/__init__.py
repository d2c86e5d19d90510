"""Exports ternary checkpoints to GGUF and Hugging Face formats, and proves the exports.

    prepare_gguf(folder, "auto", "q8_0").write(path)
    prepare_hf(folder).write(folder)
    verify.verify(folder, path, ids).passed

Importing `wf_converter.hf_packed` registers the loader of packed folders with transformers.
"""

from wf_formats.lazy import lazy_names

__all__ = ["ExportError", "load_export", "prepare_gguf", "prepare_hf"]

__getattr__ = lazy_names(
    __name__,
    {
        "ExportError": "errors",
        "load_export": "verify",
        "prepare_gguf": "gguf_export",
        "prepare_hf": "hf_export",
    },
)
