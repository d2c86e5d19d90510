"""Which llama.cpp architecture runs a checkpoint, and what it cannot represent.

    checkpoint                      arch     sub-norms  q/k rows      biases        head
    Llama-like with SubLN           bitnet   yes        as they are   none          tied only
    Llama, Mistral without SubLN    llama    no         permuted      optional      tied or not
    Qwen 2.5 / Qwen 3 without SubLN qwen2/3  no         as they are   q, k, v / no  tied or not
    SmolLM3, Gemma 3                their own
    any of the Llama block with     granite_swa         permuted      optional      tied or not
    windows or other NoPE layers
    a block-diffusion model         the above under a name that llama.cpp refuses (block-diffusion-llama)

What an architecture has is said in wf_formats.families, which of them holds a model in
wf_formats.families.support; windows and rotary positions are written by gguf_layers.py. llama.cpp rotates
neighbouring pairs (NORM) in arch llama, smollm3 and granite_swa, halves (NEOX, like transformers) in the
others. Weights go out with unit blocks and an fp32 `.scale` tensor where one scale covers the matrix; group
scales live in the blocks.
"""

from __future__ import annotations

import numpy as np
from gguf import GGUFWriter

from wf_converter.checkpoint import ConvertedCheckpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_layers import write_layers
from wf_formats.diffusion import BlockDiffusion
from wf_formats.errors import LoadError
from wf_formats.families import GgufArch
from wf_formats.families.block import HF_STEMS
from wf_formats.families.layers import context_tokens
from wf_formats.families.support import gguf_arch
from wf_formats.rope import rotated_elements


def write_hyperparameters(writer: GGUFWriter, checkpoint: ConvertedCheckpoint, arch: GgufArch) -> None:
    """Adds the keys of the architecture."""
    config = checkpoint.config
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(context_tokens(config))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(checkpoint.num_kv_heads)
    writer.add_key_length(checkpoint.head_dim)
    writer.add_value_length(checkpoint.head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for name, value in arch.constants.items():
        writer.add_float32(f"{arch.name}.{name}", value)
    if checkpoint.diffusion is not None:
        _write_blocks(writer, checkpoint.diffusion, arch)
    write_layers(writer, checkpoint, arch)


def _write_blocks(writer: GGUFWriter, diffusion: BlockDiffusion, arch: GgufArch) -> None:
    writer.add_uint32(f"{arch.name}.block_size", diffusion.block_size)
    writer.add_uint32(f"{arch.name}.mask_token_id", diffusion.mask_token_id)
    writer.add_bool(f"{arch.name}.token_shift", diffusion.token_shift)


def permute_rows(arch: GgufArch, name: str, array: np.ndarray, checkpoint: ConvertedCheckpoint) -> np.ndarray:
    """Rows (of codes, scales, weights or biases) in the order of an architecture's rotation.

    Args:
        name: Hugging Face name of the tensor.
    """
    if not arch.rotates_pairs:
        return array
    stem = name.rsplit(".", 1)[0]
    rotated = rotated_elements(checkpoint.head_dim, checkpoint.rope)
    if stem.endswith(HF_STEMS["q"]):
        return permute_rope(array, checkpoint.config["num_attention_heads"], rotated)
    if stem.endswith(HF_STEMS["k"]):
        return permute_rope(array, checkpoint.num_kv_heads, rotated)
    return array


def permute_rope(array: np.ndarray, num_heads: int, num_rotated: int) -> np.ndarray:
    """Halves to neighbouring pairs: row i of a head's first half beside row i of its second, of rotated rows.

    Rows behind the rotated ones stay. A 0-dimensional array (a tensor scale) has no rows and stays.
    """
    if array.ndim == 0:
        return array
    heads = array.reshape(num_heads, -1, *array.shape[1:]).copy()
    halves = heads[:, :num_rotated].reshape(num_heads, 2, -1, *array.shape[1:])
    heads[:, :num_rotated] = halves.swapaxes(1, 2).reshape(heads[:, :num_rotated].shape)
    return heads.reshape(array.shape)


def gguf_architecture(checkpoint: ConvertedCheckpoint) -> GgufArch:
    """The architecture that computes what the checkpoint computes.

    Raises:
        ExportError: there is none; the message says what stands in the way and what to do.
    """
    try:
        return gguf_arch(checkpoint.config, checkpoint.scheme, checkpoint.sub_norm)
    except LoadError as error:
        raise ExportError(str(error)) from error
