"""The Llama block, which all families share: its parts, their shapes and their names in both formats.

    part                 Hugging Face (model.layers.N.)   GGUF (blk.N.)
    q, k, v, o           self_attn.{part}_proj            attn_{q,k,v,output}
    gate, up, down       mlp.{part}_proj                  ffn_{part}
    norms                HF_STEMS                         GGUF_STEMS
    attn_output_norm,    norms of what attention and feed-forward part add (Gemma)
    ffn_output_norm

Attention output is fed by v and the down projection by up, both linear in their producer: that is
where SubLN goes. What differs between families is said by `Family` (base.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wf_formats.decoder_config import DecoderConfig

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("input_norm", "post_attention_norm")
QKV_BIASES = ("q_bias", "k_bias", "v_bias")
ATTENTION_BIASES = (*QKV_BIASES, "o_bias")
MLP_BIASES = ("gate_bias", "up_bias", "down_bias")
BIASES = (*ATTENTION_BIASES, *MLP_BIASES)
QK_NORMS = ("q_norm", "k_norm")
SUB_NORMS = ("attn_sub_norm", "ffn_sub_norm")
OUTPUT_NORMS = ("attn_output_norm", "ffn_output_norm")
VECTORS = (*NORMS, *BIASES, *QK_NORMS, *SUB_NORMS, *OUTPUT_NORMS)

HF_STEMS = {
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
"""Those of Llama; a family that has other names for norms says so (`Family.renamed`)."""
GGUF_STEMS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "input_norm": "attn_norm",
    "post_attention_norm": "ffn_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "attn_sub_norm": "attn_sub_norm",
    "ffn_sub_norm": "ffn_sub_norm",
    "attn_output_norm": "post_attention_norm",
    "ffn_output_norm": "post_ffw_norm",
}
HF_EMBEDDING, HF_HEAD, HF_FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
GGUF_EMBEDDING, GGUF_HEAD, GGUF_FINAL_NORM = "token_embd.weight", "output.weight", "output_norm.weight"
GGUF_ROPE_FREQS = "rope_freqs.weight"
NO_SINK = -1e30
"""An attention sink (a logit beside a head's others) that weighs nothing: its exponential is 0."""

BLOCK_LINEARS = tuple(HF_STEMS[part] for part in MATRICES)
"""Hugging Face names of a block's linears, inside the block; `Family.linears` where some are fused."""


@dataclass(frozen=True)
class SubNormSite:
    """A linear with SubLN before it, and the linear whose output scale carries over to its input."""

    consumer: str
    producer: str
    producer_part: str
    norm_part: str

    @property
    def own_norm(self) -> str:
        """Name of the norm in a model whose stock class has none: it is a child of the linear."""
        return f"{self.consumer}.sub_norm"

    @property
    def stock_norm(self) -> str:
        """Name of the norm in transformers' `bitnet`."""
        return HF_STEMS[self.norm_part]


SUB_NORM_SITES = (
    SubNormSite(HF_STEMS["o"], HF_STEMS["v"], "v", "attn_sub_norm"),
    SubNormSite(HF_STEMS["down"], HF_STEMS["up"], "up", "ffn_sub_norm"),
)
OWN_NORMS = {site.norm_part: site.own_norm for site in SUB_NORM_SITES}
"""Stems of SubLN in a model whose stock class has none."""
_CONSUMERS = {site.producer_part: site.consumer for site in SUB_NORM_SITES}
_GGUF_OF_HF_NAME = {HF_EMBEDDING: GGUF_EMBEDDING, HF_FINAL_NORM: GGUF_FINAL_NORM, HF_HEAD: GGUF_HEAD}


def part_shape(config: DecoderConfig, part: str) -> tuple[int, ...]:
    """Shape of a layer's part, matrices as [out, in]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
        "q_bias": (queries,),
        "k_bias": (keys,),
        "v_bias": (keys,),
        "gate_bias": (inner,),
        "up_bias": (inner,),
        "attn_sub_norm": (queries,),
        "ffn_sub_norm": (inner,),
    }
    if part in QK_NORMS:
        return (config.head_dim,)
    return shapes.get(part, (hidden,))


def hf_name(
    layer: int, part: str, has_own_sub_norms: bool = False, renamed: Mapping[str, str] = MappingProxyType({})
) -> str:
    """`model.layers.3.self_attn.q_proj.weight` of part "q", `...q_proj.bias` of "q_bias".

    Args:
        has_own_sub_norms: SubLN in a model whose stock class has none.
        renamed: stems in which a family differs.
    """
    stems = HF_STEMS | OWN_NORMS if has_own_sub_norms else HF_STEMS
    return f"model.layers.{layer}.{_stem_and_suffix(part, {**stems, **renamed})}"


def gguf_name(layer: int, part: str) -> str:
    """`blk.3.attn_q.weight` of part "q", `blk.3.attn_q.bias` of "q_bias"."""
    return f"blk.{layer}.{_stem_and_suffix(part, GGUF_STEMS)}"


def _stem_and_suffix(part: str, stems: Mapping[str, str]) -> str:
    if part in BIASES:
        return f"{stems[part.removesuffix('_bias')]}.bias"
    return f"{stems[part]}.weight"


def gguf_name_of(name: str, renamed: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """GGUF name of a Hugging Face tensor; None for one that GGUF has no place for.

    Args:
        renamed: stems in which a family differs.
    """
    if name in _GGUF_OF_HF_NAME:
        return _GGUF_OF_HF_NAME[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    parts = {stem: part for part, stem in {**HF_STEMS, **renamed}.items()}
    if match is None or match[2] not in parts:
        return None
    return f"blk.{match[1]}.{GGUF_STEMS[parts[match[2]]]}.{match[3]}"


def gguf_scale_name(name: str) -> str:
    """The tensor that multiplies a whole matrix: `blk.3.attn_q.scale` of `blk.3.attn_q.weight`."""
    return name.removesuffix("weight") + "scale"


def gguf_sinks_name(layer: int) -> str:
    """The attention sinks of a layer's heads, [heads]."""
    return f"blk.{layer}.attn_sinks.weight"


def consumer(layer: int, part: str) -> str:
    """Hugging Face name of the linear behind the SubLN that a part feeds; empty where there is none."""
    return f"model.layers.{layer}.{_CONSUMERS[part]}" if part in _CONSUMERS else ""


def producer(consumer_name: str) -> str:
    """Hugging Face name of the linear that feeds the SubLN of another, `...v_proj` of `...o_proj`; empty for
    a linear that has none."""
    for site in SUB_NORM_SITES:
        if consumer_name.endswith(site.consumer):
            return consumer_name.removesuffix(site.consumer) + site.producer
    return ""


PRODUCERS = tuple(_CONSUMERS)
"""Parts that feed a SubLN."""
