"""A random block-diffusion model of 64 tokens: packed, and as PyTorch runs the same numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

import ternary_kernels as tk
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import BlockDiffusion

VOCAB, HIDDEN, FFN, HEADS, CONTEXT = 64, 64, 96, 4, 512
MASK = 63
SHARPNESS = 0.8
PARTS = {
    "q": ("self_attn.q_proj", (HIDDEN, HIDDEN)),
    "k": ("self_attn.k_proj", (HIDDEN // 2, HIDDEN)),
    "v": ("self_attn.v_proj", (HIDDEN // 2, HIDDEN)),
    "o": ("self_attn.o_proj", (HIDDEN, HIDDEN)),
    "gate": ("mlp.gate_proj", (FFN, HIDDEN)),
    "up": ("mlp.up_proj", (FFN, HIDDEN)),
    "down": ("mlp.down_proj", (HIDDEN, FFN)),
}


@cache
def packed() -> tk.ModelWeights:
    """Autoregressive; tokens look at some others, and probabilities of the likeliest are 0.1 to 1."""
    rng = np.random.default_rng(0)

    def matrix(part: str, shape: tuple[int, int]) -> tk.Matrix:
        scale = np.float32(0.4 if part in "qk" else 0.2)
        return tk.pack_ternary(rng.integers(-1, 2, shape).astype(np.int8), scale)

    def table() -> tk.Matrix:
        codes = rng.integers(-127, 128, (VOCAB, HIDDEN)).astype(np.int8)
        return tk.pack_groups(codes, np.full((VOCAB, 2), 0.01, np.float32), 8)

    def layer() -> tk.LayerWeights:
        ones = np.ones(HIDDEN, np.float32)
        return tk.LayerWeights(
            ones, ones, **{part: matrix(part, shape) for part, (_, shape) in PARTS.items()}
        )

    rope = tk.Rope(tuple(10000.0 ** (-i / 8) for i in range(8)))
    config = tk.DecoderConfig(
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_layers=2,
        num_heads=HEADS,
        num_kv_heads=2,
        head_dim=16,
        vocab_size=VOCAB,
        rms_norm_eps=1e-5,
        activation="silu",
        attention=(tk.LayerAttention(rope),) * 2,
        attention_scale=0.25,
        context_tokens=CONTEXT,
    )
    norm = np.full(HIDDEN, SHARPNESS, np.float32)
    return tk.ModelWeights(config, table(), table(), norm, [layer(), layer()])


def in_blocks(diffusion: BlockDiffusion | None) -> tk.ModelWeights:
    """The same as a block-diffusion model."""
    weights = packed()
    return replace(weights, config=replace(weights.config, diffusion=diffusion))


def engine_fields(
    diffusion: BlockDiffusion | None,
    decoding: BlockDecoding,
    num_pages: int = 64,
    cache_type: Any = "f16",
    num_threads: int = 1,
) -> dict[str, Any]:
    """What makes a toy `NativeModel` one on the real decoder and sampler."""
    decoder = tk.Decoder(in_blocks(diffusion), num_pages, cache_type, num_threads)
    return {"runner": decoder, "sample": tk.sample, "diffusion": diffusion, "decoding": decoding}


def uncached(diffusion: BlockDiffusion) -> Any:
    """What `decode_blocks` takes, on the kernels: every call computes its text from an empty cache."""
    import torch

    decoder = tk.Decoder(in_blocks(diffusion), CONTEXT // tk.PAGE_TOKENS, "f16", 1)

    def logits(ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        tokens = ids[0].numpy().astype(np.int32)
        arrays = ([0, len(tokens)], [0], [range(-(-len(tokens) // tk.PAGE_TOKENS))], range(len(tokens)))
        found = decoder.forward(tokens, *(np.array(array, np.int32) for array in arrays))
        return SimpleNamespace(logits=torch.from_numpy(found)[None])

    logits.config = SimpleNamespace(block_diffusion=diffusion.to_settings())  # type: ignore[attr-defined]
    logits.device = torch.device("cpu")  # type: ignore[attr-defined]
    return logits


def pytorch(diffusion: BlockDiffusion) -> Any:
    """The same numbers in transformers' Llama."""
    model = _pytorch()
    model.config.block_diffusion = diffusion.to_settings()
    return model


@cache
def _pytorch() -> Any:
    import torch
    import transformers

    import bitnet_arch

    weights = packed()
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        max_position_embeddings=CONTEXT,
    )
    model = transformers.LlamaForCausalLM(config).eval()

    class Ternary(torch.nn.Module):
        def __init__(self, matrix: tk.Matrix) -> None:
            super().__init__()
            codes, scales = matrix.unpack()
            self.values = torch.from_numpy(codes * scales[:, None]).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rounded = bitnet_arch.Int8PerToken().quantize(x)
            y = torch.nn.functional.linear(rounded.codes.double(), self.values) / rounded.inverse_scale
            return y.to(x.dtype)

    def values_of(table: tk.Matrix) -> torch.Tensor:
        codes, scales = table.unpack()
        return torch.from_numpy((codes.reshape(VOCAB, 2, -1) * scales[..., None]).reshape(VOCAB, HIDDEN))

    for index, layer in enumerate(weights.layers):
        for part, (stem, _) in PARTS.items():
            model.set_submodule(f"model.layers.{index}.{stem}", Ternary(getattr(layer, part)))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(values_of(weights.embedding))
        model.lm_head.weight.copy_(values_of(weights.head))
        model.model.norm.weight.fill_(SHARPNESS)
    return model
