"""Checkpoint folder -> GGUF file: plan, refuse or write, atomically, one matrix in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from wf_converter.checkpoint import ConvertedCheckpoint, open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_adapter import plan_adapter
from wf_converter.gguf_adapter import write_keys as write_adapter_keys
from wf_converter.gguf_arch import gguf_architecture, write_hyperparameters
from wf_converter.gguf_plan import AUTO, TensorPlan, export_type, plan_tensors
from wf_converter.gguf_writing import write_gguf
from wf_formats.atomic import atomic_file
from wf_formats.errors import RequestError
from wf_formats.families import GgufArch
from wf_formats.families.block import HF_HEAD
from wf_formats.gguf.codecs import EXPORT_TYPES
from wf_formats.models.gguf_adapter import RANK_KEY, SOURCE_KEY
from wf_formats.tokenizer import GgufTokenizer, TokenizerError, gguf_tokenizer

QUANTIZATION_VERSION = 2


@dataclass(frozen=True)
class GgufExport:
    """A checked plan: everything that can be refused has been, nothing is written yet."""

    checkpoint: ConvertedCheckpoint
    arch: GgufArch
    tensors: list[TensorPlan]
    tokenizer: GgufTokenizer
    license: str | None
    corrections: list[TensorPlan] = field(default_factory=list)
    """Of the adapter's file; empty for a model without low-rank corrections."""

    @property
    def architecture(self) -> str:
        """Its name in llama.cpp."""
        return self.arch.name

    @property
    def written(self) -> list[TensorPlan]:
        """Of the model's file and the adapter's."""
        return [*self.tensors, *self.corrections]

    @property
    def num_bytes(self) -> int:
        """Bytes of tensor data."""
        return sum(tensor.num_bytes for tensor in self.written)

    @property
    def correction_bits_per_weight(self) -> float:
        """What the corrections add to each ternary weight."""
        num_weights = sum(int(np.prod(tensor.shape)) for tensor in self.tensors if tensor.is_quantized)
        return 8 * sum(tensor.num_bytes for tensor in self.corrections) / num_weights

    def check_adapter(self, adapter: Path | None) -> None:
        """Raises: RequestError where corrections have no file to go to, or a file would have none."""
        folder, rank = self.checkpoint.folder, self.checkpoint.low_rank
        if rank and adapter is None:
            raise RequestError(
                f"{folder} has low-rank corrections (rank {rank}), which go into a file of their own, a LoRA "
                "adapter of llama.cpp: say where with --adapter FILE"
            )
        if not rank and adapter is not None:
            raise RequestError(f"{folder} has no low-rank corrections: leave --adapter {adapter} out")

    def write(
        self,
        path: Path,
        on_tensor: Callable[[TensorPlan], None] | None = None,
        adapter: Path | None = None,
    ) -> None:
        """Writes the file under a temporary name beside `path`, syncs it and renames it.

        Args:
            on_tensor: called after each tensor (progress).
            adapter: file for the low-rank corrections of a model that has some; both appear, or none.

        Raises:
            RequestError: as `check_adapter`.
        """
        self.check_adapter(adapter)
        with ExitStack() as files:
            model = files.enter_context(atomic_file(path))
            if adapter is not None:
                beside = files.enter_context(atomic_file(adapter))
                write_gguf(beside, self.architecture, self._add_adapter_keys, self.corrections, on_tensor)
            write_gguf(model, self.architecture, self._add_keys, self.tensors, on_tensor)

    def _add_adapter_keys(self, writer: GGUFWriter) -> None:
        write_adapter_keys(writer, self.checkpoint, self.tokenizer.model_name(self.checkpoint.name))

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
        writer.add_string(SOURCE_KEY, checkpoint.fingerprint)
        if checkpoint.low_rank:
            writer.add_uint32(RANK_KEY, checkpoint.low_rank)
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
        corrections=plan_adapter(checkpoint, arch),
    )


def _tokenizer(checkpoint: ConvertedCheckpoint) -> GgufTokenizer:
    try:
        return gguf_tokenizer(checkpoint.folder, checkpoint.config["vocab_size"])
    except TokenizerError as error:
        raise ExportError(str(error)) from error


def size_label(checkpoint: ConvertedCheckpoint) -> str:
    """Number of parameters as model names give it: 135M, 1.2B."""
    tied = {HF_HEAD} if checkpoint.is_tied else set()
    count = sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names if name not in tied)
    if count < 1e6:
        return f"{count / 1e3:.0f}K"
    return f"{count / 1e6:.0f}M" if count < 1e9 else f"{count / 1e9:.1f}B"


def _file_type(tensors: list[TensorPlan]) -> int:
    """general.file_type: the type that holds most of the bytes of quantized matrices."""
    weight = Counter[int]()
    for tensor in tensors:
        if tensor.is_quantized:
            weight[EXPORT_TYPES[tensor.type].file_type] += tensor.num_bytes
    return weight.most_common(1)[0][0]
