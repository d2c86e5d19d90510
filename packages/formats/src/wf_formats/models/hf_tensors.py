"""Tensors of a Hugging Face folder: their names, and the shapes that each storage gives them."""

from __future__ import annotations

from wf_formats.decoder_config import DecoderConfig
from wf_formats.errors import LoadError
from wf_formats.models.hf_config import Quantization, Storage
from wf_formats.models.parts import BIASES, MATRICES, NORMS, SUB_NORMS, Shapes, part_shape

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_STEMS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
}
_OWN_SUB_NORMS = {"attn_sub_norm": "self_attn.o_proj.sub_norm", "ffn_sub_norm": "mlp.down_proj.sub_norm"}
CONSUMERS = {"v": "self_attn.o_proj", "up": "mlp.down_proj"}
"""The linear behind the SubLN that a producer feeds."""


def tensor_name(layer: int, part: str, has_own_sub_norms: bool = False) -> str:
    """`model.layers.3.self_attn.q_proj.weight` of part "q", `...q_proj.bias` of "q_bias"."""
    if part in BIASES:
        return f"model.layers.{layer}.{_STEMS[part.removesuffix('_bias')]}.bias"
    stems = _STEMS | _OWN_SUB_NORMS if has_own_sub_norms else _STEMS
    return f"model.layers.{layer}.{stems[part]}.weight"


def consumer(layer: int, part: str) -> str:
    """Name of the linear behind the SubLN that a part feeds; empty where there is none."""
    return f"model.layers.{layer}.{CONSUMERS[part]}" if part in CONSUMERS else ""


def expected_tensors(
    config: DecoderConfig, quantization: Quantization, extras: tuple[str, ...], is_tied: bool
) -> tuple[Shapes, list[Shapes]]:
    """Shapes of the tensors that must be there, and groups of those that may be, all or none of a group.

    Args:
        extras: norms of the model type besides the usual ones.

    Raises:
        LoadError: a packed matrix cannot have its shape.
    """
    own = quantization.has_sub_norms
    vectors = [*NORMS, *extras, *(SUB_NORMS if own and extras != SUB_NORMS else ())]
    matrix = (config.vocab_size, config.hidden_size)
    required: Shapes = {EMBEDDING: matrix, FINAL_NORM: (config.hidden_size,)}
    biases: Shapes = {}
    if not is_tied:
        required[HEAD] = matrix
    for layer in range(config.num_layers):
        for part in MATRICES:
            required |= _stored_shapes(config, quantization, layer, part)
        required |= {tensor_name(layer, part, own): part_shape(config, part) for part in vectors}
        biases |= {tensor_name(layer, part): part_shape(config, part) for part in BIASES}
    return required, [biases]


def _stored_shapes(config: DecoderConfig, quantization: Quantization, layer: int, part: str) -> Shapes:
    rows, columns = part_shape(config, part)
    name = tensor_name(layer, part)
    if quantization.storage is Storage.PACKED_INPUTS:
        assert quantization.group_size is not None
        if columns % quantization.group_size:
            raise LoadError(
                f"{name}: rows of {columns} do not divide into groups of {quantization.group_size}"
            )
        return {name: (rows, columns // 4), f"{name}_scale": (rows, columns // quantization.group_size)}
    if quantization.storage is Storage.PACKED_ROWS:
        if rows % 4:
            raise LoadError(f"{name}: {rows} rows are no multiple of 4, as row blocks need")
        return {name: (rows // 4, columns), f"{name}_scale": (1,)}
    return {name: (rows, columns)}
