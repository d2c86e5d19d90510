"""Ternary CPU kernels and the native decoder.

load_model(path) -> ModelWeights     a GGUF file or a Hugging Face folder, packed
Decoder(weights, num_pages)          forward passes over a paged cache
sample(logits, ...)                  the next tokens
pack_ternary, pack_groups, pack_phases -> Matrix  packed matrices on their own
info(), select_isa(name)             which instruction set runs, and why no other
"""

from ternary_kernels._native import PAGE_TOKENS, LowRank, Matrix, info, sample, sample_uniform, select_isa
from ternary_kernels.decoder import Decoder
from ternary_kernels.loading import load_model
from ternary_kernels.packing import pack_groups, pack_phases, pack_ternary
from ternary_kernels.weights import LayerWeights, ModelWeights
from wf_formats.decoder_config import DecoderConfig, LayerAttention
from wf_formats.errors import LoadError
from wf_formats.gguf import GgufError
from wf_formats.rope import Rope

__all__ = [
    "PAGE_TOKENS",
    "Decoder",
    "DecoderConfig",
    "GgufError",
    "LayerAttention",
    "LayerWeights",
    "LoadError",
    "LowRank",
    "Matrix",
    "ModelWeights",
    "Rope",
    "info",
    "load_model",
    "pack_groups",
    "pack_phases",
    "pack_ternary",
    "sample",
    "sample_uniform",
    "select_isa",
]
