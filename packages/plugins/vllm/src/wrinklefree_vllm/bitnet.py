"""BitNetForCausalLM for vLLM: Llama with a norm before o and before down (SubLN), of silu or relu².

    o(attn_sub_norm(attention(q, k, v)))        down(ffn_sub_norm(act(gate) * up))

Source: transformers' `modeling_bitnet.py`, the class of folders with SubLN (BitNet b1.58 2B4T among them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM


def _relu2(x: Tensor) -> Tensor:
    return torch.relu(x).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "relu2": _relu2}


class BitNetAttention(LlamaAttention):
    """Attention with a norm of its result."""

    def __init__(self, config: Any, hidden_size: int, num_heads: int, **others: Any) -> None:
        super().__init__(config=config, hidden_size=hidden_size, num_heads=num_heads, **others)
        self.attn_sub_norm = RMSNorm(num_heads * self.head_dim, eps=config.rms_norm_eps)

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q, k = self.rotary_emb(positions, q, k)
        output, _ = self.o_proj(self.attn_sub_norm(self.attn(q, k, v)))
        return output


class BitNetMLP(nn.Module):
    """The feed-forward part."""

    def __init__(self, config: Any, quant_config: Any, prefix: str) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        if config.hidden_act not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"hidden_act is {config.hidden_act!r}; of a BitNet model it is one of {known}")
        self.act = _ACTIVATIONS[config.hidden_act]
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden, [inner] * 2, bias=False, quant_config=quant_config, prefix=f"{prefix}.gate_up_proj"
        )
        self.ffn_sub_norm = RMSNorm(inner, eps=config.rms_norm_eps)
        self.down_proj = RowParallelLinear(
            inner, hidden, bias=False, quant_config=quant_config, prefix=f"{prefix}.down_proj"
        )

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        both, _ = self.gate_up_proj(x)
        gate, up = both.chunk(2, dim=-1)
        y, _ = self.down_proj(self.ffn_sub_norm(self.act(gate) * up))
        return y


class BitNetDecoderLayer(nn.Module):
    """One layer, called as vLLM's `LlamaModel` calls its layers."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", config: Any = None) -> None:
        super().__init__()
        config = config or vllm_config.model_config.hf_config
        self.self_attn = BitNetAttention(
            config,
            config.hidden_size,
            config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            quant_config=vllm_config.quant_config,
            bias=config.attention_bias,
            bias_o_proj=config.attention_bias,
            cache_config=vllm_config.cache_config,
            prefix=f"{prefix}.self_attn",
        )
        self.mlp = BitNetMLP(config, vllm_config.quant_config, f"{prefix}.mlp")
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the layer gives, and the sum of all before it, which the next norm adds."""
        if residual is None:
            residual, normed = hidden_states, self.input_layernorm(hidden_states)
        else:
            normed, residual = self.input_layernorm(hidden_states, residual)
        attended = self.self_attn(positions=positions, hidden_states=normed)
        normed, residual = self.post_attention_layernorm(attended, residual)
        return self.mlp(normed), residual


class BitNetForCausalLM(LlamaForCausalLM):
    """The model."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=BitNetDecoderLayer)
