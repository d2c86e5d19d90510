"""Ternary language models: the maths, the layers, conversion of Hugging Face models, checkpoints."""

from bitnet_arch.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    read_meta,
    save_checkpoint,
    write_checkpoint,
)
from bitnet_arch.convert import ConversionConfig, convert
from bitnet_arch.families import BLOCK_LINEARS, UnsupportedModelError, supported_families
from bitnet_arch.hf import WrinkleFreeConfig
from bitnet_arch.linear import BitLinear, bit_linears, get_lambda, int8_matmul, set_lambda
from bitnet_arch.sources import (
    load_dense,
    packaged_model_dir,
)
from bitnet_arch.subln import SubLN
from bitnet_arch.ternary import (
    Granularity,
    WeightScheme,
    dequantize,
    dequantize_activation,
    quantize_activation,
    ternary_codes_and_scales,
)

__all__ = [
    "BLOCK_LINEARS",
    "BitLinear",
    "Checkpoint",
    "CheckpointError",
    "ConversionConfig",
    "Granularity",
    "SubLN",
    "UnsupportedModelError",
    "WeightScheme",
    "WrinkleFreeConfig",
    "bit_linears",
    "convert",
    "dequantize",
    "dequantize_activation",
    "get_lambda",
    "int8_matmul",
    "load_checkpoint",
    "load_dense",
    "packaged_model_dir",
    "quantize_activation",
    "read_meta",
    "save_checkpoint",
    "set_lambda",
    "supported_families",
    "ternary_codes_and_scales",
    "write_checkpoint",
]
