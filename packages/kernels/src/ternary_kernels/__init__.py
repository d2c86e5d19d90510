"""Ternary CPU kernels and the native decoder."""

from ternary_kernels._native import PAGE_TOKENS, Matrix, info, sample, sample_uniform, select_isa
from ternary_kernels.config import DecoderConfig
from ternary_kernels.decoder import Decoder
from ternary_kernels.packing import pack_groups, pack_ternary
from ternary_kernels.weights import LayerWeights, ModelWeights

__all__ = [
    "PAGE_TOKENS",
    "Decoder",
    "DecoderConfig",
    "LayerWeights",
    "Matrix",
    "ModelWeights",
    "info",
    "pack_groups",
    "pack_ternary",
    "sample",
    "sample_uniform",
    "select_isa",
]
