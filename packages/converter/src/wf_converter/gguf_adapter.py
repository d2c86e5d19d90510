"""Low-rank corrections of a checkpoint as a LoRA adapter of llama.cpp, in a file beside the model's.

llama.cpp adds lora_b (lora_a x) to each product, x being the product's own float input (behind SubLN, not
rounded): what a correction is. The factors go out as f32, which it multiplies without rounding x; alpha is
the rank, so that their scale is 1. Rows of q and k are in the order of the model's own. The format:
wf_formats.models.gguf_adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gguf import GGUFWriter

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_converter.gguf_arch import permute_rows
from wf_converter.gguf_plan import TensorPlan, gguf_name, plan_f32
from wf_formats.families import GgufArch
from wf_formats.low_rank import LowRankPair
from wf_formats.models.gguf_adapter import ADAPTER, ALPHA_KEY, DOWN, LORA, RANK_KEY, SOURCE_KEY, TYPE_KEY, UP


@dataclass(frozen=True)
class Correction:
    """Of one matrix of the file."""

    checkpoint: ConvertedCheckpoint
    arch: GgufArch
    linear: str
    """Hugging Face name of the tensor that holds the matrix, and the matrix's own, which `rows` are."""
    part: str
    rows: slice

    @property
    def matrix(self) -> str:
        """GGUF name."""
        return gguf_name(self.part)

    def pair(self) -> LowRankPair:
        """Its factors, read anew, rows as in the file."""
        found = self.checkpoint.correction(self.linear)
        up = permute_rows(self.arch, self.part, found.up[self.rows], self.checkpoint)
        return LowRankPair(up, found.down)

    def plans(self) -> Iterator[TensorPlan]:
        """Its two tensors."""
        rows, columns = self.checkpoint.shape(self.linear)
        rows, rank = len(range(rows)[self.rows]), self.checkpoint.low_rank
        yield plan_f32(self.matrix + DOWN, (rank, columns), lambda: self.pair().down)
        yield plan_f32(self.matrix + UP, (rows, rank), lambda: self.pair().up)


def corrections(checkpoint: ConvertedCheckpoint, arch: GgufArch) -> Iterator[Correction]:
    """Those of all matrices; none for a checkpoint without."""
    if checkpoint.low_rank:
        for name in filter(checkpoint.is_quantized, checkpoint.names):
            for part, rows in checkpoint.parts(name).items():
                yield Correction(checkpoint, arch, name, part, rows)


def plan_adapter(checkpoint: ConvertedCheckpoint, arch: GgufArch) -> list[TensorPlan]:
    """All tensors of the adapter's file; none for a checkpoint without corrections.

    Raises:
        ExportError: a factor is missing or of another shape.
    """
    found = list(corrections(checkpoint, arch))
    for correction in found:
        checkpoint.check_correction(correction.linear)
    return [tensor for correction in found for tensor in correction.plans()]


def write_keys(writer: GGUFWriter, checkpoint: ConvertedCheckpoint, name: str) -> None:
    """Args: name: of the model."""
    writer.add_type(ADAPTER)
    writer.add_name(f"{name}, low-rank corrections")
    writer.add_string(TYPE_KEY, LORA)
    writer.add_float32(ALPHA_KEY, float(checkpoint.low_rank))
    writer.add_uint32(RANK_KEY, checkpoint.low_rank)
    writer.add_string(SOURCE_KEY, checkpoint.fingerprint)
