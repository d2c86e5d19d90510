"""Which llama.cpp architecture runs a checkpoint, and what it cannot represent.

    checkpoint                      arch     sub-norms  q/k rows      biases        head
    Llama-like with SubLN           bitnet   yes        as they are   none          tied only
    Llama-like without SubLN        llama    no         permuted      optional      tied or not
    Qwen 2.5 / Qwen 3 without SubLN qwen2/3  no         as they are   q, k, v / no  tied or not

llama.cpp rotates neighbouring pairs (NORM) in arch llama, halves (NEOX, like transformers) in the
others. Weights go out with unit blocks and an fp32 `.scale` tensor where one scale covers the matrix;
group scales live in the blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from gguf import GGUFWriter

from wf_converter.errors import ExportError
from wf_converter.source import Source

HF_ALTERNATIVE = "alternative: --format hf"


@dataclass(frozen=True)
class GgufArchitecture:
    """A llama.cpp architecture as it applies to one checkpoint."""

    name: str
    permutes_rope: bool
    """Whether q and k rows are reordered for NORM rotation."""

    def write(self, writer: GGUFWriter, source: Source) -> None:
        """Adds the hyperparameters."""
        config = source.config
        writer.add_vocab_size(config["vocab_size"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(_kv_heads(source))
        writer.add_key_length(source.head_dim)
        writer.add_value_length(source.head_dim)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(source.rope["rope_theta"])
        writer.add_rope_dimension_count(source.head_dim)

    def permute_rows(self, name: str, array: np.ndarray, source: Source) -> np.ndarray:
        """Rows (of codes, scales, weights or biases) in the order of this architecture's rotation."""
        if not self.permutes_rope or ".self_attn." not in name:
            return array
        projection = name.split(".self_attn.")[1].split(".")[0]
        if projection == "q_proj":
            return permute_rope(array, source.config["num_attention_heads"])
        if projection == "k_proj":
            return permute_rope(array, _kv_heads(source))
        return array


def _kv_heads(source: Source) -> int:
    return int(source.config.get("num_key_value_heads") or source.config["num_attention_heads"])


def permute_rope(array: np.ndarray, num_heads: int) -> np.ndarray:
    """Halves to neighbouring pairs: row i of a head's first half beside row i of its second.

    A 0-dimensional array (a tensor scale) has no rows and stays.
    """
    if array.ndim == 0:
        return array
    halves = array.reshape(num_heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def gguf_architecture(source: Source) -> GgufArchitecture:
    """The architecture that computes what the checkpoint computes.

    Raises:
        ExportError: there is none; the message says what stands in the way and what to do.
    """
    config = source.config
    if config.get("hidden_act") != "silu":
        raise ExportError(
            f"mlp.gate_proj: activation {config.get('hidden_act')!r}; llama.cpp computes SiLU in these "
            f"architectures and ignores any other setting; {HF_ALTERNATIVE}"
        )
    if config.get("use_sliding_window") or (config.get("attention_bias") and source.sub_norm):
        raise ExportError(f"sliding window or biased attention has no GGUF form here; {HF_ALTERNATIVE}")
    if source.sub_norm:
        _check_bitnet(source)
        return GgufArchitecture("bitnet", permutes_rope=False)
    names = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
    if source.model_type not in names:
        raise ExportError(
            f"model type {source.model_type!r} has no GGUF architecture here; known: "
            f"{', '.join(names)}; {HF_ALTERNATIVE}"
        )
    rope_types = ("default", "llama3") if source.model_type == "llama" else ("default",)
    _check_rope(source, names[source.model_type], rope_types)
    return GgufArchitecture(names[source.model_type], permutes_rope=source.model_type == "llama")


def _check_bitnet(source: Source) -> None:
    if source.model_type != "bitnet":
        raise ExportError(
            f"model.layers.0.self_attn.o_proj: SubLN in a {source.model_type!r} model (scheme "
            f"{source.scheme}); llama.cpp has sub-norms in arch bitnet only, which is Llama-like with one "
            "scale per matrix and no biases, QK-norm or wide heads; alternative: convert with scheme "
            "group64 or group128 and without SubLN"
        )
    if not source.is_tied:
        raise ExportError(
            "lm_head.weight: arch bitnet of llama.cpp always uses the embedding matrix as output head, "
            "so a separate head would be lost; alternatives: --format hf, or scheme group64 (arch llama)"
        )
    _check_rope(source, "bitnet", ("default",))


def _check_rope(source: Source, arch: str, known: tuple[str, ...]) -> None:
    kind = source.rope["rope_type"]
    if kind not in known:
        raise ExportError(
            f"rope_freqs: rotary scaling {kind!r} is not available in arch {arch} "
            f"(available: {', '.join(known)}); {HF_ALTERNATIVE}"
            + ("; or scheme group64, whose arch llama has it" if arch == "bitnet" else "")
        )


def llama3_frequency_divisors(source: Source) -> np.ndarray:
    """fp32 [head_dim / 2]: what the `rope_freqs.weight` tensor divides each rotary frequency by.

    Wavelengths beyond the original context are stretched by `factor`, those well inside stay, and
    between the two the frequencies are interpolated (Llama 3.1; transformers' `rope_type` "llama3").
    """
    rope, half = source.rope, source.head_dim // 2
    context = rope["original_max_position_embeddings"]
    frequency = rope["rope_theta"] ** (-np.arange(half, dtype=np.float64) / half)
    turns = context * frequency / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - share) / rope["factor"] + share), np.float32)
