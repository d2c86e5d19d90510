"""Which llama.cpp architecture runs a checkpoint, and what it cannot represent.

    checkpoint                      arch     sub-norms  q/k rows      biases        head
    Llama-like with SubLN           bitnet   yes        as they are   none          tied only
    Llama, Mistral without SubLN    llama    no         permuted      optional      tied or not
    Qwen 2.5 / Qwen 3 without SubLN qwen2/3  no         as they are   q, k, v / no  tied or not

What an architecture has is said in wf_formats.families. llama.cpp rotates neighbouring pairs (NORM) in
arch llama, halves (NEOX, like transformers) in the others. Weights go out with unit blocks and an fp32
`.scale` tensor where one scale covers the matrix; group scales live in the blocks.
"""

from __future__ import annotations

import numpy as np
from gguf import GGUFWriter

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_converter.errors import ExportError
from wf_formats.families import FAMILIES, GgufArch
from wf_formats.families.block import HF_STEMS

HF_ALTERNATIVE = "alternative: --format hf"


def write_hyperparameters(writer: GGUFWriter, checkpoint: ConvertedCheckpoint) -> None:
    """Adds the keys of the architecture."""
    config = checkpoint.config
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(_kv_heads(checkpoint))
    writer.add_key_length(checkpoint.head_dim)
    writer.add_value_length(checkpoint.head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(checkpoint.rope["rope_theta"])
    writer.add_rope_dimension_count(checkpoint.head_dim)


def permute_rows(arch: GgufArch, name: str, array: np.ndarray, checkpoint: ConvertedCheckpoint) -> np.ndarray:
    """Rows (of codes, scales, weights or biases) in the order of an architecture's rotation.

    Args:
        name: Hugging Face name of the tensor.
    """
    if not arch.rotates_pairs:
        return array
    stem = name.rsplit(".", 1)[0]
    if stem.endswith(HF_STEMS["q"]):
        return permute_rope(array, checkpoint.config["num_attention_heads"])
    if stem.endswith(HF_STEMS["k"]):
        return permute_rope(array, _kv_heads(checkpoint))
    return array


def _kv_heads(checkpoint: ConvertedCheckpoint) -> int:
    return int(checkpoint.config.get("num_key_value_heads") or checkpoint.config["num_attention_heads"])


def permute_rope(array: np.ndarray, num_heads: int) -> np.ndarray:
    """Halves to neighbouring pairs: row i of a head's first half beside row i of its second.

    A 0-dimensional array (a tensor scale) has no rows and stays.
    """
    if array.ndim == 0:
        return array
    halves = array.reshape(num_heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def gguf_architecture(checkpoint: ConvertedCheckpoint) -> GgufArch:
    """The architecture that computes what the checkpoint computes.

    Raises:
        ExportError: there is none; the message says what stands in the way and what to do.
    """
    _check_settings(checkpoint)
    family = FAMILIES.get(checkpoint.model_type)
    if checkpoint.sub_norm and (family is None or not family.has_sub_norms):
        raise ExportError(
            f"model.layers.0.self_attn.o_proj: SubLN in a {checkpoint.model_type!r} model (scheme "
            f"{checkpoint.scheme}); llama.cpp has sub-norms in arch bitnet only, which is Llama-like with "
            "one scale per matrix and no biases, QK-norm or wide heads; alternative: convert with scheme "
            "group64 or group128 and without SubLN"
        )
    if family is None or family.has_sub_norms != checkpoint.sub_norm:
        known = ", ".join(name for name, known in FAMILIES.items() if not known.has_sub_norms)
        raise ExportError(
            f"model type {checkpoint.model_type!r} has no GGUF architecture here; known: {known}; "
            f"{HF_ALTERNATIVE}"
        )
    if family.arch.always_ties_head and not checkpoint.is_tied:
        raise ExportError(
            f"lm_head.weight: arch {family.arch.name} of llama.cpp always uses the embedding matrix as "
            "output head, so a separate head would be lost; alternatives: --format hf, or scheme group64 "
            "(arch llama)"
        )
    _check_rope(checkpoint, family.arch)
    return family.arch


def _check_settings(checkpoint: ConvertedCheckpoint) -> None:
    config = checkpoint.config
    if config.get("hidden_act") != "silu":
        raise ExportError(
            f"mlp.gate_proj: activation {config.get('hidden_act')!r}; llama.cpp computes SiLU in these "
            f"architectures and ignores any other setting; {HF_ALTERNATIVE}"
        )
    family = FAMILIES.get(checkpoint.model_type)
    if family is not None and (reason := family.short_window(config)) is not None:
        raise ExportError(f"{reason}: they have no GGUF form here; {HF_ALTERNATIVE}")
    if config.get("attention_bias") and checkpoint.sub_norm:
        raise ExportError(f"biased attention with SubLN has no GGUF form here; {HF_ALTERNATIVE}")


def _check_rope(checkpoint: ConvertedCheckpoint, arch: GgufArch) -> None:
    kind = checkpoint.rope["rope_type"]
    if kind not in arch.rope_types:
        raise ExportError(
            f"rope_freqs: rotary scaling {kind!r} is not available in arch {arch.name} "
            f"(available: {', '.join(arch.rope_types)}); {HF_ALTERNATIVE}"
            + ("; or scheme group64, whose arch llama has it" if checkpoint.sub_norm else "")
        )
