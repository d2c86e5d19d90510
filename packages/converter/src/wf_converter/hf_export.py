"""Checkpoint folder -> Hugging Face folder with packed ternary weights, written atomically.

Llama-like with SubLN goes to stock `bitnet` (hf_bitnet.py), group scales to our packed layout
(hf_packed.py). The tokenizer and generation settings are copied; wrinklefree.json says where the
weights come from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wf_converter.checkpoint import ConvertedCheckpoint, open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.hf_bitnet import LinearClass, bitnet_config, bitnet_tensors
from wf_converter.hf_packed import packed_config, packed_tensors
from wf_formats.atomic import atomic_folder
from wf_formats.errors import LoadError
from wf_formats.families.block import HF_HEAD
from wf_formats.families.support import check_hf
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
from wf_formats.packaged import ModelSource
from wf_formats.schemes import PACKED_METHOD
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


@dataclass(frozen=True)
class HfExport:
    """A checked export: everything that can be refused has been, nothing is written yet."""

    checkpoint: ConvertedCheckpoint
    linear_class: LinearClass
    dtype: torch.dtype

    @property
    def is_bitnet(self) -> bool:
        """Whether it becomes stock `BitNetForCausalLM` (else our packed layout)."""
        return self.checkpoint.model_type == "bitnet"

    @property
    def layout(self) -> str:
        """What the folder's quantization is called."""
        return f"bitnet ({self.linear_class})" if self.is_bitnet else PACKED_METHOD

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
        if not self.checkpoint.is_ternary(name):
            return {name: self.checkpoint.torch_tensor(name).to(self.dtype).contiguous()}
        if self.is_bitnet:
            return bitnet_tensors(self.checkpoint, name, self.linear_class)
        return packed_tensors(self.checkpoint, name)

    def _config(self) -> dict[str, Any]:
        if self.is_bitnet:
            return bitnet_config(self.checkpoint, self.linear_class, self.dtype)
        return packed_config(self.checkpoint, self.dtype)

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
    if dtype not in DTYPES:
        raise ExportError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if linear_class not in list(LinearClass):
        raise ExportError(f"unknown linear class {linear_class!r}; known: {', '.join(LinearClass)}")
    checkpoint = open_checkpoint(folder)
    if checkpoint.low_rank:
        raise ExportError(
            f"{folder} has low-rank corrections (rank {checkpoint.low_rank}) of its ternary weights, which "
            "no packed Hugging Face folder holds: export to GGUF with an adapter (--format gguf --adapter "
            "FILE), or serve the folder as it is (wf serve)"
        )
    try:
        check_hf(checkpoint.config, checkpoint.scheme, checkpoint.sub_norm)
    except LoadError as error:
        raise ExportError(str(error)) from error
    return HfExport(checkpoint, LinearClass(linear_class), DTYPES[dtype])
