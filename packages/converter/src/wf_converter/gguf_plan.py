"""Which GGUF tensors an export writes, in which type and why.

The rule of `auto`, per ternary matrix (every type here is exact; they differ in speed and size):
  1. one scale for the matrix and rows that divide by 256: TQ2_0, the fastest on x86 (int8 dot
     products, 2.06 bits a weight);
  2. otherwise Q4_0: any row that divides by 32, and five times as fast on x86 as Q2_0, which has no
     SIMD there yet, for twice its size. Ask for q2_0 where size matters more;
  3. otherwise (rows that no block fits) F16.
Matrices of 4 bits are Q4_0 blocks, with zero points Q4_1: blocks of 32 repeat the scale of a larger group.
TQ1_0 is smaller (1.69 bits) and slower than TQ2_0, so it is only taken when asked for. So is I2_S, which
llama.cpp does not read: it is for bitnet.cpp, in the architectures that this has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_arch import permute_rows
from wf_converter.gguf_layers import rope_divisors
from wf_formats.errors import FormatError
from wf_formats.families import ARCHS, GgufArch, family_of
from wf_formats.families.block import (
    GGUF_ROPE_FREQS,
    HF_EMBEDDING,
    HF_HEAD,
    NO_SINK,
    gguf_name_of,
    gguf_scale_name,
    gguf_sinks_name,
)
from wf_formats.gguf import TensorType
from wf_formats.gguf.blocks import encode
from wf_formats.gguf.codecs import EMBEDDING_TYPES, EXPORT_TYPES
from wf_formats.schemes import Int4Scheme

AUTO = "auto"
_OF_ONE_MODEL = (
    "bitnet.cpp lays out its TL1 and TL2 in tiles that are compiled in for the matrix sizes of one model, so "
    "that a file of them runs in that one build alone; take i2_s, which every build on x86 reads"
)
REFUSED_TYPES = {
    "tl1": _OF_ONE_MODEL,
    "tl2": _OF_ONE_MODEL,
    "iq2_bn": "of ik_llama.cpp, whose llama-quantize makes it of a file of type i2_s; export that",
}
"""Types of others that users may ask for, and why they are not written."""


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the file; `produce` computes its data when it is written."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    num_bytes: int
    reason: str
    produce: Callable[[], np.ndarray]
    is_quantized: bool = False

    @property
    def type_name(self) -> str:
        return self.type.label


def gguf_name(name: str, renamed: Mapping[str, str] = MappingProxyType({})) -> str:
    """GGUF name of a checkpoint tensor; raises ExportError for one that GGUF has no place for.

    Args:
        renamed: of the checkpoint; matrices are called the same in all.
    """
    target = gguf_name_of(name, renamed)
    if target is None:
        raise ExportError(f"{name}: no GGUF tensor corresponds to it; alternative: --format hf")
    return target


def export_type(label: str) -> TensorType:
    """The type that users call so.

    Raises:
        ExportError: quantized matrices cannot be exported in it; the message lists the types that can be.
    """
    for kind in EXPORT_TYPES:
        if kind.label == label:
            return kind
    if (reason := REFUSED_TYPES.get(label)) is not None:
        raise ExportError(f"--type {label}: {reason}")
    known = ", ".join([AUTO, *(kind.label for kind in EXPORT_TYPES)])
    raise ExportError(f"unknown tensor type {label!r}; known: {known}")


def choose_type(
    name: str, num_columns: int, is_group_scaled: bool, wanted: str, int4: Int4Scheme | None = None
) -> tuple[TensorType, str]:
    """Type of a quantized matrix and the reason for it.

    Args:
        int4: of a matrix of 4 bits.

    Raises:
        ExportError: `wanted` cannot hold this matrix exactly; the message lists the types that can.
    """
    if int4 is not None:
        return _choose_int4_type(name, wanted, int4)
    fitting = _exact_types(num_columns, is_group_scaled)
    if wanted == AUTO:
        for kind in (TensorType.TQ2_0, TensorType.Q4_0):
            if kind in fitting:
                return kind, _why_auto(kind, num_columns, is_group_scaled)
        return TensorType.F16, f"rows of {num_columns} fit no block"
    kind = export_type(wanted)
    if kind in fitting:
        return kind, "asked for"
    if kind.trailer_bytes and is_group_scaled:
        raise ExportError(
            f"{name}: {kind.label} has one scale for the whole matrix, the model has scales per group: "
            "convert with model.scheme=tensor"
        )
    why = (
        f"its scales per group are finer than the {kind.block}-weight blocks of {kind.label}"
        if is_group_scaled and num_columns % kind.block == 0
        else f"rows of {num_columns} weights are not a multiple of {kind.block}, the block of {kind.label}"
    )
    raise _no_type(name, why, fitting)


def _choose_int4_type(name: str, wanted: str, scheme: Int4Scheme) -> tuple[TensorType, str]:
    fitting = _int4_types(scheme)
    if wanted == AUTO:
        return fitting[0], "4 bits"
    kind = export_type(wanted)
    if kind in fitting:
        return kind, "asked for"
    zeros = " and zero points" if scheme.has_zeros else ""
    raise _no_type(name, f"its weights have 4 bits{zeros}", fitting)


def _no_type(name: str, why: str, fitting: list[TensorType]) -> ExportError:
    names = ", ".join(kind.label for kind in fitting)
    return ExportError(f"{name}: {why}; types that hold it exactly: {names}, or auto")


def _exact_types(num_columns: int, is_group_scaled: bool) -> list[TensorType]:
    limit = 64 if is_group_scaled else max(num_columns, 1)  # smallest group in use; I2_S is beyond it
    return [
        kind
        for kind, export in EXPORT_TYPES.items()
        if num_columns % kind.block == 0 and kind.block <= limit and not export.has_offsets
    ]


def _int4_types(scheme: Int4Scheme) -> list[TensorType]:
    """The smallest first; groups are of 32 inputs or of a multiple."""
    return [
        kind
        for kind, export in EXPORT_TYPES.items()
        if export.codes[0] <= -8 and export.codes[1] >= 7 and export.has_offsets == scheme.has_zeros
    ]


def _why_auto(kind: TensorType, num_columns: int, is_group_scaled: bool) -> str:
    if kind is TensorType.TQ2_0:
        return f"rows of {num_columns} divide by 256: fastest"
    if is_group_scaled:
        return "group scales: fast exact type"
    return f"rows of {num_columns} do not divide by 256: fast exact type"


def plan_tensors(
    checkpoint: ConvertedCheckpoint, arch: GgufArch, wanted: str, embeddings: str
) -> list[TensorPlan]:
    """All tensors of the GGUF file of a checkpoint, in file order.

    Args:
        wanted: "auto" or the label of an export type for the quantized matrices.
        embeddings: "f16" or "q8_0" for the embedding matrix and an untied head.

    Raises:
        ExportError: a tensor has no place or would lose information.
    """
    if wanted == TensorType.I2_S.label:
        _check_bitnetcpp(checkpoint, arch)
    plans: list[TensorPlan] = []
    for name in sorted(checkpoint.names, key=_file_order):
        if name == HF_HEAD and checkpoint.is_tied:
            continue
        if checkpoint.is_quantized(name):
            for part, rows in checkpoint.parts(name).items():
                plans.extend(_plan_quantized(checkpoint, arch, name, part, rows, wanted))
        elif name in (HF_EMBEDDING, HF_HEAD):
            plans.append(_plan_embedding(checkpoint, name, embeddings))
        else:
            target = gguf_name(name, checkpoint.renamed)
            plans.append(plan_f32(target, checkpoint.shape(name), partial(_vector, checkpoint, arch, name)))
    if (divisors := rope_divisors(checkpoint, arch)) is not None:
        plans.append(plan_f32(GGUF_ROPE_FREQS, divisors.shape, lambda: divisors))
    if arch.has_sinks:
        plans.extend(_plan_sinks(checkpoint))
    return plans


def _check_bitnetcpp(checkpoint: ConvertedCheckpoint, arch: GgufArch) -> None:
    """Raises: ExportError for a model that bitnet.cpp does not compute as it was trained."""
    if not arch.in_bitnetcpp:
        known = " and ".join(known.name for known in ARCHS.values() if known.in_bitnetcpp)
        raise ExportError(
            f"{checkpoint.folder} becomes architecture {arch.name}, bitnet.cpp computes {known} with i2_s: "
            "take another --type, for llama.cpp and the native engine"
        )
    if checkpoint.low_rank:
        raise ExportError(
            f"{checkpoint.folder} has low-rank corrections (rank {checkpoint.low_rank}), which bitnet.cpp is "
            "not known to add to products with i2_s: take another --type, for llama.cpp and the native engine"
        )


def _plan_sinks(checkpoint: ConvertedCheckpoint) -> Iterator[TensorPlan]:
    """Attention sinks that weigh nothing, for architectures that must have some."""
    sinks = np.full(checkpoint.config["num_attention_heads"], NO_SINK, np.float32)
    for layer in range(checkpoint.config["num_hidden_layers"]):
        yield plan_f32(gguf_sinks_name(layer), sinks.shape, lambda: sinks)


def _file_order(name: str) -> tuple[int, str]:
    """Embeddings first, then the blocks by number, then the rest."""
    match = re.match(r"model\.layers\.(\d+)\.", name)
    if match:
        return int(match[1]), name
    return (-1 if "embed" in name else 1_000_000), name


def _vector(checkpoint: ConvertedCheckpoint, arch: GgufArch, name: str) -> np.ndarray:
    """A norm or a bias as the file has it: whole gains, rows in the order of the rotation."""
    vector = permute_rows(arch, name, checkpoint.tensor(name), checkpoint)
    offset = family_of(checkpoint.model_type).norm_offset
    return vector + np.float32(offset) if offset and not name.endswith(".bias") else vector


def plan_f32(name: str, shape: tuple[int, ...], produce: Callable[[], np.ndarray]) -> TensorPlan:
    """A tensor that is written as it is."""
    num_bytes = TensorType.F32.num_bytes(int(np.prod(shape)))
    return TensorPlan(name, shape, TensorType.F32, num_bytes, "small, kept exact", produce)


def _plan_embedding(checkpoint: ConvertedCheckpoint, name: str, kind: str) -> TensorPlan:
    if kind not in EMBEDDING_TYPES:
        raise ExportError(f"unknown type {kind!r} of the embeddings; known: {', '.join(EMBEDDING_TYPES)}")
    shape, stored = checkpoint.shape(name), EMBEDDING_TYPES[kind]
    if shape[1] % stored.block:
        raise ExportError(
            f"{name}: rows of {shape[1]} are not a multiple of {stored.block}; use --embeddings f16"
        )

    def produce() -> np.ndarray:
        return quants.quantize(checkpoint.tensor(name), GGMLQuantizationType(stored))

    num_bytes = shape[0] * stored.row_bytes(shape[1])
    return TensorPlan(gguf_name(name), shape, stored, num_bytes, "embedding", produce)


def _plan_quantized(
    checkpoint: ConvertedCheckpoint, arch: GgufArch, name: str, part: str, part_rows: slice, wanted: str
) -> Iterator[TensorPlan]:
    num_rows, columns = checkpoint.shape(name)
    order = np.arange(num_rows)[part_rows]
    rows = order.size
    kind, reason = choose_type(name, columns, checkpoint.is_group_scaled, wanted, checkpoint.int4)
    target = gguf_name(part)
    has_scale_tensor = not kind.trailer_bytes and _has_scale_tensors(checkpoint, arch)

    def produce() -> np.ndarray:
        matrix = checkpoint.matrix(name).take_rows(order)
        codes = permute_rows(arch, part, matrix.codes, checkpoint)
        # One scale: unit blocks and an fp32 `.scale` tensor, so that nothing is rounded.
        scales = np.ones((), np.float32) if has_scale_tensor else matrix.scales
        scales = permute_rows(arch, part, scales, checkpoint)
        offsets = matrix.offsets
        if offsets is not None:
            offsets = permute_rows(arch, part, offsets, checkpoint)
        try:
            return encode(codes, scales, kind, offsets)
        except FormatError as error:
            raise ExportError(f"{name}: {error}") from error

    num_bytes = kind.num_bytes(rows * columns)
    yield TensorPlan(target, (rows, columns), kind, num_bytes, reason, produce, is_quantized=True)
    if has_scale_tensor:
        yield plan_f32(gguf_scale_name(target), (1,), lambda: checkpoint.matrix(name).scales.reshape(1))


def _has_scale_tensors(checkpoint: ConvertedCheckpoint, arch: GgufArch) -> bool:
    """Else the scale stands in each block, as fp16.

    llama.cpp multiplies by the tensors in some architectures only, and there after adding a bias of the
    feed-forward part or, in some releases and parts, a low-rank correction, which it would scale, too.
    """
    is_whole, is_alone = not checkpoint.is_group_scaled, not checkpoint.config.get("mlp_bias")
    return is_whole and arch.has_matrix_scales and is_alone and not checkpoint.low_rank
