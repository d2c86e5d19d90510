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
from safetensors.torch import save_file
from torch import Tensor

from wf_converter.errors import ExportError
from wf_converter.hf_bitnet import LinearClass, bitnet_config, bitnet_tensors, check_bitnet
from wf_converter.hf_packed import check_packed, packed_config, packed_tensors
from wf_converter.source import Source, open_source
from wf_formats.atomic import atomic_folder
from wf_formats.families.block import HF_HEAD

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class HfExport:
    """A checked export: everything that can be refused has been, nothing is written yet."""

    source: Source
    linear_class: LinearClass
    dtype: torch.dtype

    @property
    def is_bitnet(self) -> bool:
        """Whether it becomes stock `BitNetForCausalLM` (else our packed layout)."""
        return self.source.model_type == "bitnet"

    @property
    def layout(self) -> str:
        """What the folder's quantization is called."""
        return f"bitnet ({self.linear_class})" if self.is_bitnet else "wrinklefree_packed"

    @property
    def names(self) -> list[str]:
        tied = {HF_HEAD} if self.source.is_tied else set()
        return sorted(set(self.source.files) - tied)

    def write(self, folder: Path, on_tensor: Callable[[str], None] = lambda name: None) -> None:
        """Writes the folder atomically; `on_tensor` is called after each tensor (progress)."""
        with atomic_folder(folder) as temporary:
            tensors: dict[str, Tensor] = {}
            for name in self.names:
                tensors |= self._tensors(name)
                on_tensor(name)
            save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
            self._write_json(temporary / "config.json", self._config())
            self._write_json(temporary / "wrinklefree.json", self._record())
            for file_name in COPIED:
                if (self.source.folder / file_name).is_file():
                    shutil.copyfile(self.source.folder / file_name, temporary / file_name)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        if not self.source.is_ternary(name):
            return {name: self.source.torch_tensor(name).to(self.dtype).contiguous()}
        if self.is_bitnet:
            return bitnet_tensors(self.source, name, self.linear_class)
        return packed_tensors(self.source, name)

    def _config(self) -> dict[str, Any]:
        if self.is_bitnet:
            return bitnet_config(self.source, self.linear_class, self.dtype)
        return packed_config(self.source, self.dtype)

    def _record(self) -> dict[str, Any]:
        return self.source.meta | {
            "conversion": None,  # no master weights to convert or train any more
            "export": {
                "layout": self.layout,
                "scheme": self.source.scheme,
                "source_sha256": self.source.fingerprint,
            },
        }

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
    source = open_source(folder)
    (check_bitnet if source.model_type == "bitnet" else check_packed)(source)
    return HfExport(source, LinearClass(linear_class), DTYPES[dtype])
