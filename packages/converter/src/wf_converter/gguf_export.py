"""Checkpoint folder -> GGUF file: plan, refuse or write, atomically, one matrix in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType

from wf_converter.checkpoint import ConvertedCheckpoint, open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_arch import gguf_architecture, write_hyperparameters
from wf_converter.gguf_plan import AUTO, TensorPlan, export_type, plan_tensors
from wf_formats.atomic import atomic_file
from wf_formats.families import GgufArch
from wf_formats.families.block import HF_HEAD
from wf_formats.gguf.codecs import EXPORT_TYPES
from wf_formats.models.gguf_seal import SEAL_KEY, structure_digest
from wf_formats.tokenizer import GgufTokenizer, TokenizerError, gguf_tokenizer

QUANTIZATION_VERSION = 2


class _Written(np.ndarray):
    """gguf-py writes by `tofile`, and numpy's own tells of a full disk without saying so (no errno)."""

    def tofile(self, file: Any, sep: str = "", format: str = "%s") -> None:
        file.write(self.data.cast("B"))


@dataclass(frozen=True)
class GgufExport:
    """A checked plan: everything that can be refused has been, nothing is written yet."""

    checkpoint: ConvertedCheckpoint
    arch: GgufArch
    tensors: list[TensorPlan]
    tokenizer: GgufTokenizer
    license: str | None

    @property
    def architecture(self) -> str:
        """Its name in llama.cpp."""
        return self.arch.name

    @property
    def num_bytes(self) -> int:
        """Bytes of tensor data."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    def write(self, path: Path, on_tensor: Callable[[TensorPlan], None] | None = None) -> None:
        """Writes the file under a temporary name beside `path`, syncs it and renames it.

        Args:
            on_tensor: called after each tensor (progress).
        """
        with atomic_file(path) as temporary:
            self._write(temporary, on_tensor)

    def _write(self, path: Path, on_tensor: Callable[[TensorPlan], None] | None) -> None:
        writer = GGUFWriter(path, self.architecture)
        self._add_keys(writer)
        for tensor in self.tensors:
            # Told as int8 so that gguf-py takes the shape as it is: it knows no block size of Q2_0.
            dtype = np.dtype(np.int8)
            kind = cast(GGMLQuantizationType, tensor.type)  # only its number is written
            writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.num_bytes, kind)
        writer.add_string(SEAL_KEY, self._digest(writer))
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in self.tensors:
                data = np.ascontiguousarray(tensor.produce()).view(_Written)
                assert data.nbytes == tensor.num_bytes, (tensor.name, data.nbytes, tensor.num_bytes)
                writer.write_tensor_data(data)
                if on_tensor is not None:
                    on_tensor(tensor)
        finally:
            writer.close()

    def _digest(self, writer: GGUFWriter) -> str:
        (stored,) = writer.kv_data
        keys = ((name, int(entry.type), entry.value) for name, entry in stored.items())
        tensors = ((tensor.name, tensor.shape, int(tensor.type)) for tensor in self.tensors)
        return structure_digest(self.architecture, keys, tensors)

    def _add_keys(self, writer: GGUFWriter) -> None:
        checkpoint = self.checkpoint
        writer.add_type("model")
        writer.add_name(self.tokenizer.model_name(checkpoint.name))
        writer.add_size_label(size_label(checkpoint))
        if self.license:
            writer.add_license(self.license)
        writer.add_file_type(_file_type(self.tensors))
        writer.add_quantization_version(QUANTIZATION_VERSION)
        write_hyperparameters(writer, checkpoint, self.arch)
        self.tokenizer.write(writer)
        writer.add_string("wrinklefree.scheme", checkpoint.scheme)
        writer.add_bool("wrinklefree.sub_norm", checkpoint.sub_norm)
        writer.add_string("wrinklefree.stage", str(checkpoint.meta.get("stage", "unknown")))
        writer.add_string("wrinklefree.source_sha256", checkpoint.fingerprint)
        if run := checkpoint.meta.get("fingerprint"):
            writer.add_string("wrinklefree.run_fingerprint", str(run))


def prepare_gguf(
    folder: Path | str,
    wanted: str = AUTO,
    embeddings: str = "f16",
    license_name: str | None = None,
) -> GgufExport:
    """Checks a checkpoint folder and plans its GGUF file.

    Args:
        wanted: "auto" or the label of an export type (wf_formats.gguf.codecs).
        embeddings: "f16" or "q8_0".
        license_name: SPDX name; by default the source model's, where known.

    Raises:
        ExportError: something would be lost; names the tensor or setting and the alternatives.
    """
    if wanted != AUTO:
        export_type(wanted)
    checkpoint = open_checkpoint(folder)
    arch = gguf_architecture(checkpoint)
    return GgufExport(
        checkpoint=checkpoint,
        arch=arch,
        tensors=plan_tensors(checkpoint, arch, wanted, embeddings),
        tokenizer=_tokenizer(checkpoint),
        license=license_name or checkpoint.license,
    )


def _tokenizer(checkpoint: ConvertedCheckpoint) -> GgufTokenizer:
    try:
        return gguf_tokenizer(checkpoint.folder, checkpoint.config["vocab_size"])
    except TokenizerError as error:
        raise ExportError(str(error)) from error


def size_label(checkpoint: ConvertedCheckpoint) -> str:
    """Number of parameters as model names give it: 135M, 1.2B."""
    tied = {HF_HEAD} if checkpoint.is_tied else set()
    count = sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.files if name not in tied)
    if count < 1e6:
        return f"{count / 1e3:.0f}K"
    return f"{count / 1e6:.0f}M" if count < 1e9 else f"{count / 1e9:.1f}B"


def _file_type(tensors: list[TensorPlan]) -> int:
    """general.file_type: the type that holds most of the ternary bytes."""
    weight = Counter[int]()
    for tensor in tensors:
        if tensor.is_ternary:
            weight[EXPORT_TYPES[tensor.type].file_type] += tensor.num_bytes
    return weight.most_common(1)[0][0]
