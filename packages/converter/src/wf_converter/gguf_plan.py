"""Which GGUF tensors an export writes, in which type and why.

The rule of `auto`, per ternary matrix (every type here is exact; they differ in speed and size):
  1. one scale for the matrix and rows that divide by 256: TQ2_0, the fastest on x86 (int8 dot
     products, 2.06 bits a weight);
  2. otherwise Q4_0: any row that divides by 32, and five times as fast on x86 as Q2_0, which has no
     SIMD there yet, for twice its size. Ask for q2_0 where size matters more;
  3. otherwise (rows that no block fits) F16.
TQ1_0 is smaller (1.69 bits) and slower than TQ2_0, so it is only taken when asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType

from wf_converter import blocks
from wf_converter.blocks import TernaryType
from wf_converter.errors import ExportError
from wf_converter.gguf_arch import GgufArchitecture, llama3_frequency_divisors
from wf_converter.source import Source

AUTO = "auto"
F32 = 0
EMBEDDING_TYPES = {"f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}

_MODEL_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
}


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the file; `produce` computes its data when it is written."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    type_name: str
    num_bytes: int
    reason: str
    produce: Callable[[], np.ndarray]


def gguf_name(name: str) -> str:
    """GGUF name of a checkpoint tensor; raises ExportError for one that GGUF has no place for."""
    if name in _MODEL_NAMES:
        return _MODEL_NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match and match[2] in _BLOCK_NAMES:
        return f"blk.{match[1]}.{_BLOCK_NAMES[match[2]]}.{match[3]}"
    raise ExportError(f"{name}: no GGUF tensor corresponds to it; alternative: --format hf")


def choose_type(name: str, num_columns: int, is_group_scaled: bool, wanted: str) -> tuple[TernaryType, str]:
    """Type of a ternary matrix and the reason for it.

    Raises:
        ExportError: `wanted` cannot hold this matrix exactly; the message lists the types that can.
    """
    fitting = _exact_types(num_columns, is_group_scaled)
    if wanted == AUTO:
        for kind in (TernaryType.TQ2_0, TernaryType.Q4_0):
            if kind in fitting:
                return kind, _why_auto(kind, num_columns, is_group_scaled)
        return TernaryType.F16, f"rows of {num_columns} fit no block"
    kind = TernaryType(wanted)
    if kind in fitting:
        return kind, "asked for"
    block = kind.layout.block
    why = (
        f"its scales per group are finer than the {block}-weight blocks of {kind}"
        if is_group_scaled and num_columns % block == 0
        else f"rows of {num_columns} weights are no multiple of {block}, the block of {kind}"
    )
    raise ExportError(f"{name}: {why}; types that hold it exactly: {', '.join(fitting)}, or auto")


def _exact_types(num_columns: int, is_group_scaled: bool) -> list[TernaryType]:
    limit = 64 if is_group_scaled else max(num_columns, 1)  # smallest group in use
    layouts = {kind: kind.layout.block for kind in TernaryType}
    return [kind for kind, size in layouts.items() if num_columns % size == 0 and size <= limit]


def _why_auto(kind: TernaryType, num_columns: int, is_group_scaled: bool) -> str:
    if kind is TernaryType.TQ2_0:
        return f"rows of {num_columns} divide by 256: fastest"
    if is_group_scaled:
        return "group scales: fast exact type"
    return f"rows of {num_columns} do not divide by 256: fast exact type"


def plan_tensors(source: Source, arch: GgufArchitecture, wanted: str, embeddings: str) -> list[TensorPlan]:
    """All tensors of the GGUF file of a checkpoint, in file order.

    Args:
        wanted: "auto" or a TernaryType value for the ternary matrices.
        embeddings: "f16" or "q8_0" for the embedding matrix and an untied head.

    Raises:
        ExportError: a tensor has no place or would lose information.
    """
    plans: list[TensorPlan] = []
    for name in sorted(source.files, key=_file_order):
        if name == "lm_head.weight" and source.is_tied:
            continue
        if source.is_ternary(name):
            plans.extend(_plan_ternary(source, arch, name, wanted))
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            plans.append(_plan_embedding(source, name, embeddings))
        else:
            produce = partial(_permuted, source, arch, name)
            plans.append(_plan_f32(gguf_name(name), source.shape(name), produce))
    if source.rope["rope_type"] == "llama3":
        divisors = partial(llama3_frequency_divisors, source)
        plans.append(_plan_f32("rope_freqs.weight", (source.head_dim // 2,), divisors))
    return plans


def _file_order(name: str) -> tuple[int, str]:
    """Embeddings first, then the blocks by number, then the rest."""
    match = re.match(r"model\.layers\.(\d+)\.", name)
    if match:
        return int(match[1]), name
    return (-1 if "embed" in name else 1_000_000), name


def _permuted(source: Source, arch: GgufArchitecture, name: str) -> np.ndarray:
    return arch.permute_rows(name, source.tensor(name), source)


def _plan_f32(name: str, shape: tuple[int, ...], produce: Callable[[], np.ndarray]) -> TensorPlan:
    num_bytes = 4 * int(np.prod(shape))
    return TensorPlan(name, shape, F32, "f32", num_bytes, "small, kept exact", produce)


def _plan_embedding(source: Source, name: str, kind: str) -> TensorPlan:
    shape, quantized = source.shape(name), EMBEDDING_TYPES[kind]
    if kind == "q8_0" and shape[1] % 32:
        raise ExportError(f"{name}: rows of {shape[1]} are no multiple of 32; use --embeddings f16")

    def produce() -> np.ndarray:
        return quants.quantize(source.tensor(name), quantized)

    bytes_per_32 = {"f16": 64, "q8_0": 34}[kind]
    num_bytes = shape[0] * shape[1] * bytes_per_32 // 32
    return TensorPlan(gguf_name(name), shape, int(quantized), kind, num_bytes, "embedding", produce)


def _plan_ternary(source: Source, arch: GgufArchitecture, name: str, wanted: str) -> Iterator[TensorPlan]:
    rows, columns = source.shape(name)
    kind, reason = choose_type(name, columns, source.is_group_scaled, wanted)
    target = gguf_name(name)

    def produce() -> np.ndarray:
        matrix = source.ternary(name)
        codes = arch.permute_rows(name, matrix.codes, source)
        # One scale: unit blocks and an fp32 `.scale` tensor, so that nothing is rounded.
        scales = matrix.scales if source.is_group_scaled else np.ones((), np.float32)
        scales = arch.permute_rows(name, scales, source)
        try:
            return blocks.encode(codes, scales, kind)
        except ExportError as error:
            raise ExportError(f"{name}: {error}") from error

    num_bytes = rows * kind.layout.row_bytes(columns)
    yield TensorPlan(target, (rows, columns), kind.layout.ggml_type, kind, num_bytes, reason, produce)
    if not source.is_group_scaled:
        scale_name = target.removesuffix("weight") + "scale"
        yield _plan_f32(scale_name, (1,), lambda: source.ternary(name).scales.reshape(1))
