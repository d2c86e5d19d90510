"""`BitNetForCausalLM`: the Llama block with SubLN, norms before the output and the down projection.

What `wf export --format hf` writes of models with SubLN, and Microsoft's BitNet b1.58. Source: transformers'
`models/bitnet`; the activation is SiLU or, in Microsoft's, squared ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from sglang.srt.layers.quantization.base_config import QuantizationConfig
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.models.llama import LlamaAttention, LlamaForCausalLM
from sglang.srt.utils import add_prefix, make_layers
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
}
"""transformers' names."""


class BitNetAttention(LlamaAttention):
    """Attention whose result is normed before the output projection."""

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.attn_sub_norm = RMSNorm(self.q_size, eps=config.rms_norm_eps)

    def forward(self, positions: Tensor, hidden_states: Tensor, forward_batch: ForwardBatch) -> Tensor:
        """hidden_states [tokens, hidden] -> [tokens, hidden]."""
        q, k, v = self.forward_prepare_native(positions, hidden_states)
        mixed = self.attn_sub_norm(self.attn(q, k, v, forward_batch))
        return self.o_proj(mixed)[0]


class BitNetMLP(nn.Module):
    """Gated feed-forward part, normed before the down projection."""

    def __init__(self, config: Any, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        if config.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {config.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[config.hidden_act]
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden,
            [inner] * 2,
            bias=False,
            quant_config=quant_config,
            prefix=add_prefix("gate_up_proj", prefix),
        )
        self.ffn_sub_norm = RMSNorm(inner, eps=config.rms_norm_eps)
        self.down_proj = RowParallelLinear(
            inner, hidden, bias=False, quant_config=quant_config, prefix=add_prefix("down_proj", prefix)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        gate, up = self.gate_up_proj(hidden_states)[0].chunk(2, dim=-1)
        return self.down_proj(self.ffn_sub_norm(self.activation(gate) * up))[0]


class BitNetLayer(nn.Module):
    """A block: attention and feed-forward part, each added to what came in."""

    def __init__(
        self, config: Any, layer_id: int, quant_config: QuantizationConfig | None, prefix: str
    ) -> None:
        super().__init__()
        rope = config.rope_parameters
        self.self_attn = BitNetAttention(
            config,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            layer_id=layer_id,
            rope_theta=rope["rope_theta"],
            rope_scaling=rope,
            max_position_embeddings=config.max_position_embeddings,
            quant_config=quant_config,
            prefix=add_prefix("self_attn", prefix),
            bias=config.attention_bias,
        )
        self.mlp = BitNetMLP(config, quant_config, add_prefix("mlp", prefix))
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, positions: Tensor, hidden_states: Tensor, forward_batch: ForwardBatch) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        normed = self.input_layernorm(hidden_states)
        hidden_states = hidden_states + self.self_attn(positions, normed, forward_batch)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class BitNetModel(nn.Module):
    """Embedding, blocks, norm."""

    def __init__(self, config: Any, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size,
            config.hidden_size,
            quant_config=quant_config,
            prefix=add_prefix("embed_tokens", prefix),
        )
        self.layers = make_layers(
            config.num_hidden_layers,
            lambda idx, prefix: BitNetLayer(config, idx, quant_config, prefix),
            prefix=add_prefix("layers", prefix),
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.start_layer, self.end_layer = 0, config.num_hidden_layers

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        forward_batch: ForwardBatch,
        input_embeds: Tensor | None = None,
        pp_proxy_tensors: Any = None,
    ) -> Tensor:
        """input_ids [tokens] -> [tokens, hidden]."""
        hidden_states = self.embed_tokens(input_ids) if input_embeds is None else input_embeds
        for layer in self.layers:
            hidden_states = layer(positions, hidden_states, forward_batch)
        return self.norm(hidden_states)


class BitNetForCausalLM(LlamaForCausalLM):
    """The class that a folder's config.json names; head, loading and logits are Llama's."""

    def _init_model(
        self, config: Any, quant_config: QuantizationConfig | None = None, prefix: str = ""
    ) -> BitNetModel:
        return BitNetModel(config, quant_config, prefix)


EntryClass = BitNetForCausalLM
