"""What an export has from its checkpoint besides the quantized matrices: configuration, other tensors.

    configuration   of a folder: every value of config.json but for those of USERS; of a GGUF file:
                    what the decoder computes with (`DecoderConfig`), floats within fp32 rounding
    other tensors   norms, biases, embeddings, a head of its own: what the checkpoint holds, rounded once to
                    the type that the export stores, equal to the bit

Log-probs of a short text cannot show all of it: a gain off by 0.3 %, the row of a token that the text does
not have, a context that ends earlier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from bitnet_arch.master_quantizer import quantize_master
from wf_converter.checkpoint import ConvertedCheckpoint, read_settings
from wf_converter.errors import ExportError
from wf_converter.reference import stored
from wf_formats.diffusion import disk_settings
from wf_formats.families.block import (
    GGUF_EMBEDDING,
    GGUF_FINAL_NORM,
    GGUF_HEAD,
    HF_EMBEDDING,
    HF_HEAD,
    VECTORS,
    gguf_name,
)
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.models import ModelFile, open_model
from wf_formats.models.gguf_model import GgufModel
from wf_formats.models.hf_model import HfModel

USERS = frozenset(
    (
        *("_name_or_path", "transformers_version", "quantization_config", "dtype", "torch_dtype"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "return_dict", "problem_type"),
        *("id2label", "label2id", "initializer_range", "attention_dropout", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "output_attentions", "output_hidden_states"),
    )
)
"""Keys of config.json that decide nothing of the log-probs, or that each export has of its own."""
_FP32 = 1e-6
_TURNS = 1e-12
"""Frequencies below turn nothing, over any context."""
_OF_WORDS = ("_packed", "_scale", "_shape", "_zero_point")


def check_settings(checkpoint: ConvertedCheckpoint, export: Path, opened: ModelFile) -> None:
    """Raises: ExportError where the configuration of an export is not its checkpoint's; names the key."""
    if isinstance(opened, HfModel):
        # As written, too: what transformers drops may count for others who read the file.
        mine = read_json(checkpoint.folder / CONFIG_FILE) | checkpoint.config
        written = read_json(export / CONFIG_FILE)
        theirs = written | read_settings(export)
        # Who looks for the model's class reads what is written.
        mine["architectures"] = disk_settings(mine).get("architectures")
        theirs["architectures"] = written.get("architectures")
        keys = checkpoint.config.keys() | theirs.keys()
    else:
        mine = _computed_with(open_model(checkpoint.folder, quantize_master))
        theirs = _computed_with(opened)
        keys = set(theirs)
    told = [
        f"{key} is {theirs.get(key)!r:.60} there and {mine.get(key)!r:.60} in the checkpoint"
        for key in sorted(keys - USERS)
        if not _is_same(mine.get(key), theirs.get(key))
    ]
    if told:
        raise ExportError(f"{export} is no export of {checkpoint.folder}: {'; '.join(told)}")


def _computed_with(model: ModelFile) -> dict[str, Any]:
    """Fields of the decoder's configuration. Pairs of a head that are not turned are left out: some GGUF
    architectures can only give them a frequency of almost 0."""
    config = model.config
    attention = [
        replace(
            layer,
            rope=replace(rope, inverse_frequencies=tuple(filter(_TURNS.__lt__, rope.inverse_frequencies))),
        )
        if (rope := layer.rope) is not None
        else layer
        for layer in config.attention
    ]
    return asdict(replace(config, attention=tuple(attention)))


def _is_same(expected: Any, found: Any) -> bool:
    """Floats within fp32 rounding, all else equal; null is as good as absent."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(_is_same(expected.get(key), found.get(key)) for key in expected.keys() | found.keys())
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        return len(expected) == len(found) and all(map(_is_same, expected, found))
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return math.isclose(expected, found, rel_tol=_FP32)
    return bool(expected == found)


def wrong_tensors(checkpoint: ConvertedCheckpoint, opened: ModelFile) -> list[str]:
    """Names of the tensors besides quantized matrices that are not the checkpoint's."""
    if isinstance(opened, GgufModel):
        return list(_wrong_in_gguf(checkpoint, opened))
    assert isinstance(opened, HfModel)
    return list(_wrong_in_folder(checkpoint, opened))


def _wrong_in_folder(checkpoint: ConvertedCheckpoint, opened: HfModel) -> Iterator[str]:
    paths = opened.tensors.paths
    quantized = {name for name in checkpoint.names if checkpoint.is_quantized(name)}
    tied = {HF_HEAD} if checkpoint.is_tied else set()
    plain = set(checkpoint.names) - quantized - tied
    held = {name + ending for name in quantized for ending in ("", *_OF_WORDS)}
    for name in sorted(plain | (paths.keys() - held - tied)):
        if name not in plain or name not in paths:
            yield name
            continue
        with safe_open(paths[name], framework="pt") as file:
            found: torch.Tensor = file.get_tensor(name)
        if not torch.equal(checkpoint.torch_tensor(name).to(found.dtype), found):
            yield name


def _wrong_in_gguf(checkpoint: ConvertedCheckpoint, opened: GgufModel) -> Iterator[str]:
    source, file = open_model(checkpoint.folder, quantize_master), opened.file
    for name, target in ((HF_EMBEDDING, GGUF_EMBEDDING), (HF_HEAD, GGUF_HEAD)):
        if checkpoint.is_tied and target == GGUF_HEAD and target not in file.tensors:
            continue
        if target not in file.tensors:
            yield target
            continue
        name = HF_EMBEDDING if checkpoint.is_tied else name
        expected = stored(checkpoint.torch_tensor(name), file.tensor(target).type_name)
        if not np.array_equal(expected.numpy(), file.values(target)):
            yield target
    if not np.array_equal(source.final_norm(), opened.final_norm()):
        yield GGUF_FINAL_NORM
    for layer in range(opened.config.num_layers):
        for part in VECTORS:
            mine, theirs = source.vector(layer, part), opened.vector(layer, part)
            if (mine is None) != (theirs is None) or not np.array_equal(mine, theirs):  # type: ignore[arg-type]
                yield gguf_name(layer, part)
