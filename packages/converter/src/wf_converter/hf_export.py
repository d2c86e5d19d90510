"""Checkpoint folder -> Hugging Face folder with packed weights, written atomically.

How the quantized ones lie in it is a `Layout`: Llama-like with SubLN goes to stock `bitnet` (hf_bitnet.py),
group scales to our packed layout (hf_packed.py), complex weights to that of phases (hf_phases.py), and what
has no SubLN also to compressed-tensors for stock vLLM (hf_compressed.py), if that is asked for. The tokenizer
and generation settings are copied; wrinklefree.json says where the weights come from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bitnet_arch.master_quantizer import quantize_master
from wf_converter.checkpoint import ConvertedCheckpoint, open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.hf_bitnet import BitnetLayout, LinearClass
from wf_converter.hf_compressed import CompressedLayout
from wf_converter.hf_packed import PackedLayout
from wf_converter.hf_phases import PhaseLayout
from wf_formats.atomic import atomic_folder
from wf_formats.diffusion import disk_settings
from wf_formats.errors import LoadError
from wf_formats.families.block import HF_HEAD
from wf_formats.families.support import check_compressed, check_hf, check_phases
from wf_formats.file_names import (
    CHAT_TEMPLATE_FILE,
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    META_FILE,
    NAMED_TEMPLATES,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from wf_formats.models import open_model
from wf_formats.packaged import ModelSource
from wf_formats.packed_codes import CODES_PER_WORD, NIBBLES_PER_WORD
from wf_formats.system_errors import system_errors
from wf_formats.targets import EXPORT

COPIED = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    NAMED_TEMPLATES,
    GENERATION_CONFIG_FILE,
)
"""Patterns of what the model came with."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Layout(Protocol):
    """How the quantized weights of a checkpoint lie in a folder."""

    @property
    def name(self) -> str:
        """What users are told of it."""

    def quantization(self) -> dict[str, Any]:
        """quantization_config of config.json."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one quantized matrix, by their names in the folder."""


@dataclass(frozen=True)
class HfExport:
    """A checked export: everything that can be refused has been, nothing is written yet."""

    checkpoint: ConvertedCheckpoint
    packing: Layout
    dtype: torch.dtype

    @property
    def layout(self) -> str:
        """What the folder's quantization is called."""
        return self.packing.name

    @property
    def names(self) -> list[str]:
        tied = {HF_HEAD} if self.checkpoint.is_tied else set()
        return sorted(set(self.checkpoint.names) - tied)

    def write(self, folder: Path, on_tensor: Callable[[str], None] = lambda name: None) -> None:
        """Writes the folder atomically, replacing an earlier export and nothing else.

        Args:
            on_tensor: called after each tensor (progress).

        Raises:
            RequestError: something else is there.
            OSError: it cannot be written; nothing is left behind.
        """
        with atomic_folder(folder, EXPORT) as temporary:
            tensors: dict[str, Tensor] = {}
            for name in self.names:
                tensors |= self._tensors(name)
                on_tensor(name)
            with system_errors(temporary / WEIGHTS_FILE, SafetensorError):
                save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
            self._write_json(temporary / CONFIG_FILE, self._config())
            self._copy_files(temporary)
            written = (path for path in temporary.rglob("*") if path.is_file())
            files = sorted(path.relative_to(temporary).as_posix() for path in written)
            self._write_json(temporary / META_FILE, self._record(files))

    def _copy_files(self, folder: Path) -> None:
        for pattern in COPIED:
            for path in self.checkpoint.folder.glob(pattern):
                copy = folder / path.relative_to(self.checkpoint.folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        if not self.checkpoint.is_quantized(name):
            return {name: self.checkpoint.torch_tensor(name).to(self.dtype).contiguous()}
        return self.packing.tensors(name)

    def _config(self) -> dict[str, Any]:
        dtype = str(self.dtype).removeprefix("torch.")
        own = {"quantization_config": self.packing.quantization(), "dtype": dtype}
        return disk_settings(self.checkpoint.config | own)

    @property
    def _source(self) -> dict[str, Any]:
        """The record of the source, without the way to a folder: exports are for others."""
        origin = self.checkpoint.origin
        if origin.get("source") != ModelSource.path or not origin.get("name"):
            return {}
        return {"source": origin | {"name": Path(origin["name"]).resolve().name}}

    def _record(self, files: list[str]) -> dict[str, Any]:
        """Args: files: everything else in the folder, by which an earlier export is recognised."""
        return (
            self.checkpoint.meta
            | self._source
            | {
                "conversion": None,  # no master weights to convert or train any more
                "export": {
                    "layout": self.layout,
                    "scheme": self.checkpoint.scheme,
                    "source_sha256": self.checkpoint.fingerprint,
                    "files": files,
                },
            }
        )

    @staticmethod
    def _write_json(path: Path, contents: dict[str, Any]) -> None:
        path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n")


def prepare_hf(
    folder: Path | str, linear_class: str = LinearClass.BITLINEAR, dtype: str = "float32"
) -> HfExport:
    """Checks a checkpoint folder for the Hugging Face export.

    Args:
        linear_class: "bitlinear" or "autobitlinear" (family A only).
        dtype: "float32" or "bfloat16" of embeddings, norms and biases.

    Raises:
        ExportError: the checkpoint has no packed Hugging Face form, or an option is unknown.
    """
    if linear_class not in list(LinearClass):
        raise ExportError(f"unknown linear class {linear_class!r}; known: {', '.join(LinearClass)}")
    checkpoint = _open(folder, dtype, check_hf)
    is_bitnet = checkpoint.model_type == "bitnet"
    layout = BitnetLayout(checkpoint, LinearClass(linear_class)) if is_bitnet else PackedLayout(checkpoint)
    return HfExport(checkpoint, layout, DTYPES[dtype])


def prepare_compressed(folder: Path | str, dtype: str = "float32") -> HfExport:
    """Checks a checkpoint folder for the export to compressed-tensors.

    Args:
        dtype: "float32" or "bfloat16" of embeddings, norms and biases.

    Raises:
        ExportError: the checkpoint has no such form; the message says what to do instead.
    """
    checkpoint = _open(folder, dtype, check_compressed)
    for name in filter(checkpoint.is_quantized, checkpoint.names):
        rows, columns = checkpoint.shape(name)
        if checkpoint.int4 is not None and checkpoint.int4.has_zeros and rows % NIBBLES_PER_WORD:
            raise ExportError(
                f"{name}: zero points of {rows} rows do not fill whole words of {NIBBLES_PER_WORD}; "
                "alternative: --format gguf"
            )
        if columns % CODES_PER_WORD:
            raise ExportError(
                f"{name}: rows of {columns} weights do not fill whole words of {CODES_PER_WORD} codes; "
                "alternative: --format gguf"
            )
    return HfExport(checkpoint, CompressedLayout(checkpoint), DTYPES[dtype])


def prepare_phases(folder: Path | str, dtype: str = "float32") -> HfExport:
    """Checks a checkpoint folder of complex weights for the export of their phases.

    Args:
        dtype: "float32" or "bfloat16" of embeddings, norms and biases.

    Raises:
        ExportError: the checkpoint has no such form; the message says what to do instead.
    """
    checkpoint = _open(folder, dtype, check_phases)
    try:
        open_model(folder, quantize_master)  # tensors that the engine would not take from the export either
    except LoadError as error:
        raise ExportError(str(error)) from error
    return HfExport(checkpoint, PhaseLayout(checkpoint), DTYPES[dtype])


def _open(
    folder: Path | str, dtype: str, check: Callable[[dict[str, Any], str, bool], None]
) -> ConvertedCheckpoint:
    """Args: check: raises LoadError for a configuration, scheme or SubLN that the layout cannot hold."""
    if dtype not in DTYPES:
        raise ExportError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    checkpoint = open_checkpoint(folder)
    if checkpoint.low_rank:
        raise ExportError(
            f"{folder} has low-rank corrections (rank {checkpoint.low_rank}) of its ternary weights, which "
            "no packed Hugging Face folder holds: export to GGUF with an adapter (--format gguf --adapter "
            "FILE), or serve the folder as it is (wf serve)"
        )
    try:
        check(checkpoint.config, checkpoint.scheme, checkpoint.sub_norm)
    except LoadError as error:
        raise ExportError(str(error)) from error
    return checkpoint
