"""Tokenizers of model folders for training: transformers' objects, behind the files' door.

`wf_formats.tokenizer` checks the files before any library takes them at their word. What tokenizer.json
says is what is used: some classes of transformers 5 (`LlamaTokenizer`) build normalizer and pre-tokenizer
themselves, by the class's name, and then text gets other tokens than the model was trained on and than
every other reader of the file gives; for those the file is loaded as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from bitnet_arch.disk_format import transformers_config
from wf_formats.diffusion import SETTINGS_KEY, read_settings
from wf_formats.file_names import CONFIG_FILE
from wf_formats.tokenizer import TokenizerError, read_files, rust_panics

_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_MODEL_OPTIONS = ("unk_token", "byte_fallback", "ignore_merges", "continuing_subword_prefix", "dropout")


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer of a model folder.

    Raises:
        TokenizerError: tokenizer.json is missing or damaged, or asks for absurd amounts or foreign code.
    """
    files = read_files(Path(folder))
    stated = files.backend()
    loaded = _transformers(transformers.AutoTokenizer, folder, **_model(Path(folder)))
    if _computes(loaded, stated):
        return loaded
    return _transformers(transformers.PreTrainedTokenizerFast, folder)


def _model(folder: Path) -> dict[str, Any]:
    """For transformers, which chooses a class by the model type: that of a block-diffusion model it would not
    know."""
    if not (folder / CONFIG_FILE).is_file():
        return {}
    settings = read_settings(folder, TokenizerError)
    return {} if settings.get(SETTINGS_KEY) is None else {"config": transformers_config(folder, settings)}


def _transformers(loader: Any, source: Path | str, **options: Any) -> Any:
    try:
        with rust_panics(f"{source}: tokenizer.json"):
            return loader.from_pretrained(source, trust_remote_code=False, **options)
    except TokenizerError:
        raise
    except Exception as error:  # transformers raises whatever a damaged file makes it trip over
        reason = " ".join(str(error).split())
        raise TokenizerError(f"transformers cannot load the tokenizer in {source}: {reason}") from error


def _computes(loaded: Any, stated: Any) -> bool:
    """Whether a tokenizer of transformers does what tokenizer.json says."""
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None or type(backend.model) is not type(stated.model):
        return False
    if any(_state(backend, part) != _state(stated, part) for part in _PARTS):
        return False
    options = ((getattr(side.model, name, None) for name in _MODEL_OPTIONS) for side in (backend, stated))
    return all(ours == theirs for ours, theirs in zip(*options, strict=True))


def _state(backend: Any, part: str) -> Any:
    step = getattr(backend, part)
    return None if step is None else step.__getstate__()
