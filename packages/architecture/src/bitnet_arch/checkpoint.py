"""Checkpoints: Hugging Face folders with master weights, tokenizer and `wrinklefree.json`.

Two forms on disk (see disk_format.py):
- Llama-like models with SubLN and one scale per tensor are stock `BitNetForCausalLM` folders (online
  mode): stock transformers quantizes them on the fly and answers as the model in memory;
- all others keep their stock class and name quant_method "wrinklefree" (hf.py).
A block-diffusion model has one of these forms, but for a config.json that says what it is
(wf_formats.diffusion), so that whoever knows autoregressive models alone refuses it.
Weights are safetensors; a folder is written atomically.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from bitnet_arch.disk_format import from_disk, to_disk, transformers_config, write_config
from bitnet_arch.errors import CheckpointError
from bitnet_arch.generation import generation_config, write_generation_config
from bitnet_arch.model_tokenizer import check_vocabulary, save_tokenizer, tokenizer_of_folder
from bitnet_arch.quantizers import quantizer
from bitnet_arch.source_settings import check_config, check_dense, null_hint
from bitnet_arch.stored_tensors import check_dense_tensors, read_rows, read_state, untie_different_head
from wf_formats import diffusion
from wf_formats.atomic import atomic_folder
from wf_formats.families import FAMILIES
from wf_formats.families.settings import rope_objects
from wf_formats.file_names import CONFIG_FILE, META_FILE, WEIGHTS_INDEX_FILE
from wf_formats.json_file import read_value
from wf_formats.system_errors import system_errors
from wf_formats.targets import checkpoint_kind

FORMAT = 1


@dataclass
class Checkpoint:
    """A loaded folder: model, tokenizer and the contents of wrinklefree.json ({} for a dense folder)."""

    model: Any
    tokenizer: Any
    meta: dict[str, Any]


def save_checkpoint(
    model: nn.Module,
    tokenizer: Any,
    folder: Path | str,
    meta: Mapping[str, Any],
    max_shard_size: str = "5GB",
) -> None:
    """Writes a checkpoint folder atomically, replacing an earlier one of that name and nothing else.

    Args:
        model: converted or dense causal LM.
        tokenizer: its tokenizer, or None to leave it out.
        folder: target.
        meta: JSON-serialisable values for wrinklefree.json ("stage", "step", ...); "format" and
            "conversion" are filled in here.
        max_shard_size: size of a safetensors file at which a new one begins.

    Raises:
        RequestError: something else than a checkpoint is there.
        OSError: it cannot be written; nothing is left behind.
    """
    with atomic_folder(folder, checkpoint_kind()) as temporary:
        write_checkpoint(model, tokenizer, temporary, meta, max_shard_size)


def write_checkpoint(
    model: nn.Module,
    tokenizer: Any,
    folder: Path,
    meta: Mapping[str, Any],
    max_shard_size: str = "5GB",
) -> None:
    """`save_checkpoint` into an existing folder, for callers that hold the atomic_folder themselves."""
    config, state, conversion = to_disk(model)
    _save_state(state, folder, max_shard_size)
    _write_description(model, config, tokenizer, folder, {**meta, "conversion": conversion})


def write_description(model: nn.Module, tokenizer: Any, folder: Path, meta: Mapping[str, Any]) -> None:
    """All of a checkpoint but its weights, which others write. The model may be on the meta device."""
    config, _, conversion = to_disk(model)
    _write_description(model, config, tokenizer, folder, {**meta, "conversion": conversion})


def _write_description(
    model: nn.Module, config: Any, tokenizer: Any, folder: Path, meta: Mapping[str, Any]
) -> None:
    write_config(config, folder)
    write_generation_config(model, folder)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    contents = {"format": FORMAT, **meta}
    (folder / META_FILE).write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n")


def load_checkpoint(folder: Path | str, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Loads a checkpoint folder, converted or dense.

    Returns:
        the model in evaluation mode (converted: BitLinear layers, lambda 1) with its tokenizer.
    Raises:
        CheckpointError: no such folder, a missing, truncated or unreadable file, tensors that do not fit
            or are not finite, a tokenizer of another vocabulary, a quantizer that is not installed.
        SourceError: weights that another method has quantized.
        TokenizerError: a tokenizer file is missing or damaged, or asks for absurd amounts.
    """
    folder = Path(folder)
    model, meta = read_model(folder, dtype)
    tokenizer = tokenizer_of_folder(folder)
    check_vocabulary(folder, tokenizer, model.config.vocab_size)
    return Checkpoint(model, tokenizer, meta)


def load_rows(folder: Path, rows: Callable[[int], slice]) -> dict[str, Tensor]:
    """Some rows of each weight of a checkpoint, by its name in the loaded model; nothing else is read.

    Args: rows says for a tensor of n rows (its first dimension) which.
    Raises: CheckpointError as `load_checkpoint`.
    """
    conversion = read_meta(folder).get("conversion")
    return from_disk(read_config(folder), read_rows(folder, rows), conversion)[1]


def tensors_on_disk(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name and value in its folder, without those on the meta device: of a model that
    stands for a part of its weights, that part."""
    return {name: tensor for name, tensor in to_disk(model)[1].items() if not tensor.is_meta}


def read_model(folder: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The model of a folder, as `load_checkpoint` gives it, and the contents of wrinklefree.json."""
    settings = read_settings(folder)
    meta = read_meta(folder) if (folder / META_FILE).is_file() else {}
    conversion = meta.get("conversion")
    _check_scheme(folder, meta)
    if conversion is None:
        check_dense(settings, str(folder))
    check_config(settings, folder)
    config, state = read_config(folder), read_state(folder)
    untie_different_head(config, state, folder)
    if conversion is None and config.model_type in FAMILIES:
        state = check_dense_tensors(config, state, folder)
    config, state = from_disk(config, state, conversion)
    model = _build(config, state, dtype, folder)
    if (generation := generation_config(folder, model.config.vocab_size)) is not None:
        model.generation_config = generation
    return model, meta


def read_settings(folder: Path) -> dict[str, Any]:
    """Contents of a folder's config.json, as of the model in memory (`wf_formats.diffusion`); raises
    CheckpointError where there is none."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    return diffusion.read_settings(folder, CheckpointError)


def read_config(folder: Path) -> Any:
    """config.json as transformers has it; raises CheckpointError where it describes no language model."""
    settings = read_settings(folder)
    try:
        config = transformers_config(folder, settings)
    except Exception as error:  # transformers raises whatever a wrong value makes it
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / CONFIG_FILE} describes no model that can be run: {reason}{null_hint(folder)}"
        ) from error
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(f"{folder}: model type {config.model_type!r} is no causal language model")
    if any(rope.get("rope_theta", 0) is None for rope in rope_objects(config.to_dict())):
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: rope_theta is null, which transformers does not take for its default: "
            "leave the key out, or give the base of the rotary positions, such as 10000.0"
        )
    return config


def _check_scheme(folder: Path, meta: Mapping[str, Any]) -> None:
    conversion = meta.get("conversion")
    if conversion is None:
        return
    try:
        quantizer(conversion["scheme"])
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def read_meta(folder: Path | str) -> dict[str, Any]:
    """The contents of wrinklefree.json.

    Raises:
        CheckpointError: the file is missing, no JSON, or of another format version.
    """
    path = Path(folder) / META_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: {folder} is not a WrinkleFree checkpoint")
    meta = read_value(path, CheckpointError)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise CheckpointError(f"{path} has format {found!r}; this version reads {FORMAT}")
    return meta


def _save_state(state: dict[str, Tensor], folder: Path, max_shard_size: str) -> None:
    split = split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size)
    for file_name, names in split.filename_to_tensors.items():
        tensors = {name: state[name].contiguous() for name in names}
        with system_errors(folder / file_name, SafetensorError):
            save_file(tensors, folder / file_name, metadata={"format": "pt"})
    if split.is_sharded:
        write_index(folder, split.metadata, split.tensor_to_filename)


def write_index(folder: Path, metadata: Mapping[str, Any], weight_map: Mapping[str, str]) -> None:
    """Of weights in several files: tensor -> name of its file."""
    index = {"metadata": metadata, "weight_map": weight_map}
    (folder / WEIGHTS_INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _build(config: Any, state: dict[str, Tensor], dtype: torch.dtype, folder: Path) -> Any:
    model_class: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    try:
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: tensors do not fit the model: {' '.join(str(error).split())}"
        ) from error
    problems = {key: sorted(map(str, names)) for key, names in info.items() if names}
    if problems:
        raise CheckpointError(f"{folder}: tensors do not fit the model: {problems}")
    return model.eval()
