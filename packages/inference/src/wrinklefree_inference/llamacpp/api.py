"""llama.cpp's C API, reached by ctypes through the library inside the `xllamacpp` wheel.

`xllamacpp` wraps llama.cpp's server, which returns log-probabilities of tokens that it generated,
never of the prompt. Its shared object exports the whole C API, where one call gives the logits of
every position. Only opaque pointers cross this boundary, but for the two parameter structs, which
change from release to release: they are passed by value as a block larger than any real one
(by-value structs of this size lie in memory, so a longer block is harmless), filled by llama.cpp's
own defaults; `handles.py` says which of their numbers are written and how they are read back.

Known to work: xllamacpp 2026.10.11549. Source: llama.cpp, include/llama.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from wrinklefree_inference.errors import EngineError

PROCESS_DECODE = 1  # enum llama_process_type
LOG_INFO, LOG_WARNING = 2, 3  # enum ggml_log_level: 1 debug, 2 info, 3 warning, 4 error, 5 continuation
LOG_CONTINUATION = 5

KNOWN_RELEASE = "xllamacpp 2026.10.11549"

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_pointer = ctypes.c_void_p
_int32, _uint32, _bool = ctypes.c_int32, ctypes.c_uint32, ctypes.c_bool
_int32_array = ctypes.POINTER(ctypes.c_int32)


class Params(ctypes.Structure):
    """llama_model_params or llama_context_params with room to spare (the real ones: < 200 bytes)."""

    _fields_ = [("words", ctypes.c_uint32 * 512)]


_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "llama_backend_init": (None, []),
    "llama_log_get": (None, [_pointer, _pointer]),
    "llama_log_set": (None, [_pointer, _pointer]),
    "llama_model_default_params": (Params, []),
    "llama_context_default_params": (Params, []),
    "llama_model_load_from_file": (_pointer, [ctypes.c_char_p, Params]),
    "llama_model_free": (None, [_pointer]),
    "llama_model_n_ctx_train": (_int32, [_pointer]),
    "llama_model_n_params": (ctypes.c_uint64, [_pointer]),
    "llama_model_get_vocab": (_pointer, [_pointer]),
    "llama_vocab_n_tokens": (_int32, [_pointer]),
    "llama_vocab_bos": (_int32, [_pointer]),
    "llama_vocab_eos": (_int32, [_pointer]),
    "llama_vocab_get_add_bos": (_bool, [_pointer]),
    "llama_tokenize": (
        _int32,
        [_pointer, ctypes.c_char_p, _int32, _int32_array, _int32, _bool, _bool],
    ),
    "llama_detokenize": (
        _int32,
        [_pointer, _int32_array, _int32, ctypes.c_char_p, _int32, _bool, _bool],
    ),
    "llama_adapter_lora_init": (_pointer, [_pointer, ctypes.c_char_p]),
    "llama_set_adapters_lora": (
        _int32,
        [_pointer, ctypes.POINTER(_pointer), ctypes.c_size_t, ctypes.POINTER(ctypes.c_float)],
    ),
    "llama_init_from_model": (_pointer, [_pointer, Params]),
    "llama_free": (None, [_pointer]),
    "llama_n_ctx": (_uint32, [_pointer]),
    "llama_n_batch": (_uint32, [_pointer]),
    "llama_n_ubatch": (_uint32, [_pointer]),
    "llama_n_seq_max": (_uint32, [_pointer]),
    "llama_set_n_threads": (None, [_pointer, _int32, _int32]),
    "llama_get_memory": (_pointer, [_pointer]),
    "llama_memory_seq_rm": (_bool, [_pointer, _int32, _int32, _int32]),
    "llama_batch_ext_init": (_pointer, [_pointer]),
    "llama_batch_ext_free": (None, [_pointer]),
    "llama_batch_ext_clear": (None, [_pointer]),
    "llama_batch_ext_add_token": (_int32, [_pointer, _int32, _int32]),
    "llama_batch_ext_set_pos": (_bool, [_pointer, _int32, _int32_array]),
    "llama_batch_ext_set_output_logits": (_bool, [_pointer, _int32, _bool]),
    "llama_process": (_int32, [_pointer, ctypes.c_int, _pointer]),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [_pointer, _int32]),
}


@cache
def library() -> ctypes.CDLL:
    """The loaded library with typed functions.

    Raises:
        EngineError: xllamacpp is missing, or lacks a function that is needed here.
    """
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise EngineError("xllamacpp is not installed: run `uv sync`")
    (path,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    loaded = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        if not hasattr(loaded, name):
            raise EngineError(f"{path} does not export {name}: use {KNOWN_RELEASE}")
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    loaded.llama_backend_init()
    return loaded


@contextmanager
def captured_log(least: int = LOG_WARNING) -> Iterator[list[str]]:
    """Collect llama.cpp's messages of level `least` and above instead of printing them."""
    api, messages, level = library(), list[str](), 0

    def collect(new_level: int, text: bytes, _data: object) -> None:
        nonlocal level
        level = level if new_level == LOG_CONTINUATION else new_level
        if level >= least:
            messages.append(text.decode("utf-8", "replace").strip())

    callback = LogCallback(collect)
    before, data = ctypes.c_void_p(), ctypes.c_void_p()
    api.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    api.llama_log_set(ctypes.cast(callback, ctypes.c_void_p), None)
    try:
        yield messages
    finally:
        api.llama_log_set(before, data)
