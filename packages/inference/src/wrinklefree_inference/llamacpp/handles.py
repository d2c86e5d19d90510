"""Loaded models and contexts of llama.cpp's C interface.

`llama_context_params` changes from release to release. Written are n_ctx, n_batch, n_ubatch and n_seq_max
(its first four numbers; read back through getters) and, if they are to differ from llama.cpp's defaults,
flash_attn_type, type_k and type_v (numbers 13, 26 and 27; the defaults must stand there before, and the log
of the new context must name the wanted values after). A changed layout fails at once instead of computing
something else.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.llamacpp.api import (
    KNOWN_RELEASE,
    LOG_INFO,
    LOG_WARNING,
    Params,
    captured_log,
    library,
)

CacheNumbers = Literal["f16", "f32"]

GGML_TYPES = {"f32": 0, "f16": 1}  # enum ggml_type
FLASH_ATTN_WORD, TYPE_K_WORD, TYPE_V_WORD = 13, 26, 27
FLASH_ATTN_AUTO, FLASH_ATTN_OFF = 2**32 - 1, 0  # enum llama_flash_attn_type: -1 lets llama.cpp choose


@dataclass(frozen=True)
class ContextOptions:
    """What a context is made for.

    Attributes:
        context_tokens: Of all sequences together, which share them equally.
        batch_tokens: Most tokens of one `llama_process`, whose logits are held at once.
        cache_type: Numbers of the key-value cache.
        flash_attention: False forbids it; True leaves it to llama.cpp.
    """

    context_tokens: int
    batch_tokens: int
    num_threads: int
    num_sequences: int = 1
    cache_type: CacheNumbers = "f16"
    flash_attention: bool = True

    @property
    def is_default(self) -> bool:
        """Whether cache and attention are llama.cpp's defaults."""
        return self.cache_type == "f16" and self.flash_attention

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """n_ctx, n_batch, n_ubatch, n_seq_max."""
        return self.context_tokens, self.batch_tokens, self.batch_tokens, self.num_sequences


def load_model(path: Path) -> int:
    """Handle of the loaded model (free it with llama_model_free).

    Raises:
        EngineError: llama.cpp refused the file; its reason is in the message.
    """
    api = library()
    with captured_log() as messages:
        model: int | None = api.llama_model_load_from_file(
            str(path).encode(), api.llama_model_default_params()
        )
    if not model:
        reasons = [line for line in messages if "error" in line or "invalid" in line]
        raise EngineError(f"llama.cpp refused {path}: {'; '.join(reasons or messages)}")
    return model


def _add_adapter(model: int, context: int, path: Path) -> None:
    """Gives a context the low-rank corrections of a LoRA adapter, which is freed with the model.

    Raises:
        EngineError: llama.cpp refused the file; its reason is in the message.
    """
    api = library()
    with captured_log() as messages:
        adapter = ctypes.c_void_p(api.llama_adapter_lora_init(model, str(path).encode()))
        scale = ctypes.c_float(1)
        is_set = adapter and not api.llama_set_adapters_lora(
            context, ctypes.byref(adapter), 1, ctypes.byref(scale)
        )
    if not is_set:
        raise EngineError(f"llama.cpp refused the adapter {path}: {'; '.join(messages)}")


def new_context(model: int, options: ContextOptions, adapter: Path | None = None) -> int:
    """Handle of a context (free it with llama_free).

    Args:
        adapter: GGUF file with low-rank corrections of the model.

    Raises:
        EngineError: llama.cpp refused it or the adapter (its reason is in the message), or its parameter
            struct is not laid out as known here.
    """
    api, params = library(), _params(options)
    with captured_log(LOG_WARNING if options.is_default else LOG_INFO) as messages:
        context: int | None = api.llama_init_from_model(model, params)
        if context:
            api.llama_set_n_threads(context, options.num_threads, options.num_threads)
    if not context:
        raise EngineError(f"llama.cpp made no context of {options.context_tokens} tokens: {messages}")
    try:
        _check_counts(context, options)
        _check_log(messages, options)
        if adapter is not None:
            _add_adapter(model, context, adapter)
    except EngineError:
        api.llama_free(context)
        raise
    return context


def _params(options: ContextOptions) -> Params:
    params: Params = library().llama_context_default_params()
    params.words[:4] = options.counts
    if options.is_default:
        return params
    found = tuple(params.words[word] for word in (FLASH_ATTN_WORD, TYPE_K_WORD, TYPE_V_WORD))
    if found != (expected := (FLASH_ATTN_AUTO, GGML_TYPES["f16"], GGML_TYPES["f16"])):
        raise _changed_layout(f"defaults {expected} of attention and cache", found)
    params.words[TYPE_K_WORD] = params.words[TYPE_V_WORD] = GGML_TYPES[options.cache_type]
    if not options.flash_attention:
        params.words[FLASH_ATTN_WORD] = FLASH_ATTN_OFF
    return params


def _check_counts(context: int, options: ContextOptions) -> None:
    api = library()
    getters = (api.llama_n_ctx, api.llama_n_batch, api.llama_n_ubatch, api.llama_n_seq_max)
    if (found := tuple(get(context) for get in getters)) != options.counts:
        raise _changed_layout(options.counts, found)


def _check_log(messages: list[str], options: ContextOptions) -> None:
    """Whether llama.cpp itself says that cache and attention are as wanted (`K (f32)`, `= disabled`)."""
    if options.is_default:
        return
    cache = [line for line in messages if "K (" in line and "V (" in line]
    wanted = [f"{part} ({options.cache_type})" for part in "KV"]
    if not cache or not all(part in line for line in cache for part in wanted):
        raise _changed_layout(f"a cache with {' and '.join(wanted)}", cache)
    attention = [line.split("=")[-1].strip() for line in messages if "flash_attn " in line]
    if not options.flash_attention and attention != ["disabled"]:
        raise _changed_layout("no flash attention", attention)


def _changed_layout(wanted: object, found: object) -> EngineError:
    return EngineError(
        f"this xllamacpp lays out llama_context_params differently: asked for {wanted}, "
        f"got {found}; use {KNOWN_RELEASE}"
    )
